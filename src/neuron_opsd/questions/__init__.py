"""Stage 1: unlabelled questions in, records out; sees no answer."""
