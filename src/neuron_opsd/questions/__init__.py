"""Unlabelled questions in, records out; sees no answer."""
