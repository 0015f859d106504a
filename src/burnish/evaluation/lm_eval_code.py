"""Runs the code of replies to lm-eval tasks in our sandbox, instead of in this process.

Tasks such as HumanEval and MBPP load the metric `code_eval` of the package evaluate when they are
imported. It would be downloaded, and would run the replies in a child process with all rights.
"""

import contextlib
from collections.abc import Iterator, Sequence
from math import comb
from statistics import fmean
from typing import Any

from burnish.evaluation.graders.sandbox import Limits, run_grade
from burnish.evaluation.graders.template import GradingError

_METRIC = "code_eval"
_SECONDS = 10.0
_GRADE = """
def grade(sample, item):
    exec(item["program"], {"__name__": "__main__"})
    return 1.0
"""


class SandboxedCodeEval:
    """The interface of the metric `code_eval`: pass@k of programs (Chen et al. 2021)."""

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1,),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """The share of problems with a right one among k programs, and each program's outcome."""
        outcomes = {
            index: [_passes(f"{program}\n{test}") for program in programs]
            for index, (test, programs) in enumerate(zip(references, predictions, strict=True))
        }
        shares = {
            f"pass@{number}": fmean(_pass_at(each, number) for each in outcomes.values())
            for number in k
            if all(len(each) >= number for each in outcomes.values())
        }
        return shares, outcomes


@contextlib.contextmanager
def sandboxed_code() -> Iterator[None]:
    """Replaces the metric `code_eval` while a task is loaded, which keeps what it loaded."""
    import evaluate

    load = evaluate.load

    def replaced(path: str, *arguments: Any, **options: Any) -> Any:
        return SandboxedCodeEval() if path == _METRIC else load(path, *arguments, **options)

    evaluate.load = replaced
    try:
        yield
    finally:
        evaluate.load = load


def _passes(program: str) -> bool:
    try:
        return run_grade(_GRADE, {}, {"program": program}, Limits(seconds=_SECONDS)) == 1.0
    except GradingError as error:
        if error.kind == "start":
            raise
        return False


def _pass_at(outcomes: Sequence[bool], k: int) -> float:
    """The unbiased estimate of pass@k: Chen et al. 2021, arXiv 2107.03374, equation 1."""
    wrong = len(outcomes) - sum(outcomes)
    return 1.0 - comb(wrong, k) / comb(len(outcomes), k)
