"""Before the first step: what a run promises, tried on the user's own model, rows and settings."""

from burnish.preflight.base import MARKS, Check, Subject
from burnish.preflight.run import preflight, refuse

__all__ = ["MARKS", "Check", "Subject", "preflight", "refuse"]
