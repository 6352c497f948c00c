"""What a KV cache takes: bytes by arithmetic, tables, a picture, and the peak of a real run."""
