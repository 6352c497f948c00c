"""What a GPU allows: a model of one layer's decode attention from bytes, instructions, latency and waves; not run."""
