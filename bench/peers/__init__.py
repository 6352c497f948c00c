"""`python -m kvproof.bench.peers`: instructions of other projects' decode kernels, counted by the PTX machine."""
