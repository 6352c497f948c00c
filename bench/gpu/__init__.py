"""The parts of the GPU kit: parity, the kernel beside its peers, decoding end to end, and their page."""
