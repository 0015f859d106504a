"""What a run learns: one objective a file of this folder, registered by its name in recipes."""

import pkgutil
from importlib import import_module

from burnish.training.objectives.base import OBJECTIVES

__all__ = ["OBJECTIVES"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
