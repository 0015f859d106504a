"""Parity: checks that every form of a model (merged, GGUF, served ...) gives the same output."""
