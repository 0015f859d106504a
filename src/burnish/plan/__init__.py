"""What a run will take: rows, steps, time, memory and disk, before anything heavy."""

from burnish.plan.estimate import Plan, make_plan, one_line

__all__ = ["Plan", "make_plan", "one_line"]
