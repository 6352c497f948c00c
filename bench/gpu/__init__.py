"""`python -m kvproof.bench.gpu`: ten minutes of tests and measurements on a GPU."""
