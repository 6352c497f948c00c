"""Two paths to the same logits: the verdict, where they part, and why."""
