"""Known KV-cache bugs, planted in the torch model."""
