"""The paths that are judged: ours, Hugging Face's, anybody's functions."""
