"""The process that runs one job's recipe; it ends with its worker, however that one ends.

    python -m burnish.serving.jobs.run_recipe WORKER_PID RECIPE

Exit codes: 0 there is a verdict, 2 a user's error, described in `outcome.json` next to the recipe,
28 the disk is full, 75 one of several processes that learn together was lost, 130 stopped with a
checkpoint. Anything else is our own mistake; its traceback is on stderr.
"""

import errno
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.errors import InterruptedRunError, UserError, WorkerLostError, is_disk_full
from burnish.processes import die_with, yield_to_others
from burnish.runs.atomic import write_atomic

OUTCOME = "outcome.json"
DONE, REFUSED, FULL, LOST, STOPPED = 0, 2, errno.ENOSPC, 75, 130


def main(arguments: Sequence[str]) -> int:
    """Run the recipe, and return the exit code."""
    worker, recipe = int(arguments[0]), Path(arguments[1])
    die_with(worker)
    yield_to_others()
    return work(recipe)


def work(recipe: Path) -> int:
    """Run the recipe, or resume it, and return the exit code."""
    try:
        _run(recipe)
    except WorkerLostError:
        return LOST
    except (InterruptedRunError, KeyboardInterrupt):
        return STOPPED
    except Exception as error:
        if is_disk_full(error):
            return FULL
        if not isinstance(error, UserError):
            raise
        write_atomic(recipe.with_name(OUTCOME), json.dumps(outcome(error)))
        return REFUSED
    return DONE


def outcome(error: UserError) -> dict[str, Any]:
    """Return a user's error as JSON: the name of its class as `kind`, and its fields."""
    return {
        "kind": type(error).__name__,
        "code": error.code,
        "seen": error.seen,
        "remedy": error.remedy,
        "fields": error.fields,
    }


def _run(path: Path) -> None:
    from burnish.pipeline import verbs  # slow to import, and the worker may be gone by now
    from burnish.recipe.schema import load_recipe

    recipe = load_recipe(path)
    verbs.run(recipe, resume=(recipe.output / recipe.name).exists(), quiet=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
