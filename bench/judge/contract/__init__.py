"""What any KV cache and any decode attention must keep to, each promise checked by itself."""
