"""Two ways to compute the same logits, held against each other: who they are, where they part, and why."""
