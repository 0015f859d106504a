"""Training objectives, each registered under its name in recipes; every file here is imported."""

import pkgutil
from importlib import import_module

from burnish.training.objectives.base import OBJECTIVES

__all__ = ["OBJECTIVES"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
