"""What judges logits and attentions, with NumPy alone: rounding, ladder, verdict, probes, planted faults."""
