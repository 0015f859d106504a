"""The names, things and numbers that items are made of, and choices that give nothing away."""

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

PEOPLE = (
    "Ada", "Alan", "Alice", "Amir", "Ana", "Anton", "Aria", "Asha", "Bela", "Ben", "Bruno",
    "Carla", "Chen", "Clara", "Dana", "David", "Diego", "Dora", "Elena", "Eli", "Emma", "Eric",
    "Fatima", "Felix", "Finn", "Gita", "Grace", "Hana", "Hugo", "Ida", "Igor", "Ines", "Iris",
    "Ivan", "Jack", "Jana", "Jonas", "Julia", "Kai", "Karin", "Kenji", "Lara", "Leo", "Lina",
    "Lucas", "Maria", "Marco", "Maya", "Mia", "Milan", "Nadia", "Nina", "Noah", "Nora", "Olga",
    "Omar", "Oscar", "Paula", "Peter", "Priya", "Rafael", "Rosa", "Ruth", "Sam", "Sara", "Simon",
    "Sofia", "Tara", "Theo", "Tom", "Uma", "Vera", "Victor", "Yara", "Yusuf", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "pears", "plums", "eggs", "books", "pens", "coins", "stamps", "marbles", "cards",
    "shells", "stickers", "buttons", "candles", "cups", "plates", "stones", "beads", "tickets",
    "balloons", "cookies", "lemons", "oranges", "roses", "toys", "bricks",
)  # fmt: skip
COLOURS = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "purple", "orange", "grey",
    "pink", "silver",
)  # fmt: skip
PLACES = (
    "kitchen", "garden", "attic", "cellar", "garage", "library", "office", "workshop", "bedroom",
    "hall", "barn", "shed", "studio", "bakery", "school", "museum", "station", "harbour",
    "market", "chapel",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

T = TypeVar("T")


def ladder(right: int, step: int, rng: Random, count: int = 4, least: int = 0) -> list[int]:
    """Return `right` and then wrong numbers, all `step` apart, with no number below `least`.

    The right number is the smallest, the second smallest, ... or the largest of them equally
    often (as far as `least` allows), so that neither size nor length gives it away.
    """
    place = rng.randrange(min(count, (right - least) // step + 1))
    values = [right + (index - place) * step for index in range(count)]
    return [right, *(value for value in values if value != right)]


def siblings(
    make: Callable[[], T], answer: Callable[[T], str], rng: Random, count: int = 4
) -> tuple[T, str, list[str]]:
    """Return a random question, its answer, and the answers of questions made the same way.

    All answers come from one distribution, so that none of them looks more right than the others.
    """
    answers: dict[str, T] = {}
    for _ in range(1000):
        question = make()
        answers.setdefault(answer(question), question)
        if len(answers) == count:
            break
    right = rng.choice(list(answers))
    return answers[right], right, [text for text in answers if text != right]


def listed(words: Sequence[str], last: str = "and") -> str:
    """The words as an English list: `a, b and c`."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]
