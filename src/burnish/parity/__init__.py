"""Parity: one model in memory, reloaded, merged, as GGUF and behind an endpoint says one thing."""
