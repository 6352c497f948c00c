"""`python -m kvproof.bench.memory`: bytes of a KV cache by arithmetic, pictures, and the peak of a real run."""
