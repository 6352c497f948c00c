"""Anybody's quantisers before the judge of formats, reference/judge/formats: NumPy or torch, by command or in tests."""
