"""PTX as machine code of this CPU: a warp's lanes as vectors, every check inside."""
