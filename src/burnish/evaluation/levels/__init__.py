"""The suite `levels`: sections of generated items, each with levels of rising difficulty."""
