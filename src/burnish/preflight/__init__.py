"""Correctness checks before the first step, on the user's own model, rows and settings."""

from burnish.preflight.base import MARKS, Check, Subject
from burnish.preflight.run import raise_on_failure, run_checks

__all__ = ["MARKS", "Check", "Subject", "raise_on_failure", "run_checks"]
