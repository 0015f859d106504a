"""Burnish: fine-tune a language model, see what it gained and forgot, release it in budget."""
