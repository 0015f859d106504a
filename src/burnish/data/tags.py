"""The tag set of the IOB2 scheme: `O`, and B- and I- for each type."""

from collections.abc import Sequence

from burnish.conversation import Example


def all_tags(examples: Sequence[Example]) -> list[str]:
    """All tags of the examples' types: `O` first, then B- and I- for each type."""
    types = sorted({tag[2:] for example in examples for tag in example.tags or () if tag != "O"})
    return ["O", *(f"{begin}-{kind}" for kind in types for begin in "BI")]
