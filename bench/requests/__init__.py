"""Many requests at once: tokens per second, what speculation brings, and what 100,000 requests leave in memory."""
