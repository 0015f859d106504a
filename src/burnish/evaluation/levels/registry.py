"""The sections of the suite `levels`, in the order of the ledger."""

from burnish.evaluation.levels.section import LevelSection

SECTIONS: tuple[LevelSection, ...] = ()
