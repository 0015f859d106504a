"""Burnish: fine-tune a language model, see what it gained and forgot, release it in budget.

The verbs of the command line are functions here:

    import burnish
    run = burnish.run("recipe.yaml", training={"epochs": 2})
    run.verdict()
"""

import logging
from typing import TYPE_CHECKING, Any

from burnish.processes import let_threads_sleep

if TYPE_CHECKING:
    from burnish.pipeline.verbs import (
        check,
        compare,
        evaluate,
        heal,
        open_classifier,
        open_tuned,
        report,
        run,
        train,
    )

__all__ = [
    "check",
    "compare",
    "evaluate",
    "heal",
    "open_classifier",
    "open_tuned",
    "report",
    "run",
    "train",
]

let_threads_sleep()
# PEFT imports bitsandbytes where it is installed, which warns that a faster kernel from the hub is
# missing. Nothing is fetched from there, and 4-bit weights work without it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    # Lazy, so that `burnish --help` does not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module 'burnish' has no attribute {name!r}")
    from burnish.pipeline import verbs

    return getattr(verbs, name)
