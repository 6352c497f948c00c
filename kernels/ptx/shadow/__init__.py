"""Every float register also carries the value that it would have in float64: what a 16-bit kernel's rounding does."""
