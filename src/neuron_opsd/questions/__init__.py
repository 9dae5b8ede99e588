"""Unlabelled questions in, records out. Sees no answer."""
