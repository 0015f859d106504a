"""The sections of the suite `levels`, in the order of the ledger."""

from burnish.evaluation.levels.code_reading import CODE_READING
from burnish.evaluation.levels.code_writing import CODE_WRITING
from burnish.evaluation.levels.constraints import CONSTRAINTS
from burnish.evaluation.levels.conversations import CONVERSATIONS
from burnish.evaluation.levels.dates import DATES
from burnish.evaluation.levels.function_choice import FUNCTION_CHOICE
from burnish.evaluation.levels.json_answers import JSON_ANSWERS
from burnish.evaluation.levels.knowledge import CITIES, COUNTRIES, ELEMENTS_AND_UNITS
from burnish.evaluation.levels.languages import LANGUAGE_SECTION
from burnish.evaluation.levels.logic import KNIGHTS_AND_KNAVES, ORDERING, SET_MEMBERSHIP
from burnish.evaluation.levels.long_context import NEEDLES, VARIABLE_TRACKING
from burnish.evaluation.levels.refusals import HARMFUL_REQUESTS, HARMLESS_REQUESTS
from burnish.evaluation.levels.section import LevelSection
from burnish.evaluation.levels.tables import TABLES
from burnish.evaluation.levels.units import UNITS
from burnish.evaluation.levels.unknown_things import KNOWN_OR_INVENTED, UNKNOWN_THINGS
from burnish.evaluation.levels.word_problems import WORD_PROBLEMS

SECTIONS: tuple[LevelSection, ...] = (
    WORD_PROBLEMS,
    UNITS,
    DATES,
    ORDERING,
    KNIGHTS_AND_KNAVES,
    SET_MEMBERSHIP,
    TABLES,
    CODE_READING,
    CODE_WRITING,
    JSON_ANSWERS,
    FUNCTION_CHOICE,
    CONSTRAINTS,
    CONVERSATIONS,
    NEEDLES,
    VARIABLE_TRACKING,
    LANGUAGE_SECTION,
    COUNTRIES,
    CITIES,
    ELEMENTS_AND_UNITS,
    KNOWN_OR_INVENTED,
    UNKNOWN_THINGS,
    HARMFUL_REQUESTS,
    HARMLESS_REQUESTS,
)
