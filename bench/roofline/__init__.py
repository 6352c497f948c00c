"""`python -m kvproof.bench.roofline`: a model of one layer's decode attention on a GPU; and bench/'s table of GPUs."""
