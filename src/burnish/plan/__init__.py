"""Estimates of the time, memory and disk space of a run, before it starts."""

from burnish.plan.estimate import Plan, checkpoints_by_need, make_plan, one_line

__all__ = ["Plan", "checkpoints_by_need", "make_plan", "one_line"]
