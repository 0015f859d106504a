"""Tags of words in the IOB2 scheme: `O`, and B- and I- of each type."""

from collections.abc import Sequence

from burnish.conversation import Example


def all_tags(examples: Sequence[Example]) -> list[str]:
    """`O` first, then B- and I- of every type that occurs."""
    types = sorted({tag[2:] for example in examples for tag in example.tags or () if tag != "O"})
    return ["O", *(f"{begin}-{kind}" for kind in types for begin in "BI")]
