"""What the operations of a torch model compute, recorded by name."""
