"""Writing code: a function from its description, tested on hidden cases in the sandbox.

Each task has a program of its own, which is run to get the results of the cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from burnish.evaluation.levels.section import Item, Level, LevelSection, checked_item

_ASK = "Write a Python function"
_END = "Reply with the Python code only."


@dataclass(frozen=True, slots=True)
class Task:
    """A function to write: its name, a description, a program that solves it, and arguments."""

    name: str
    description: str
    source: str
    arguments: tuple[list[Any], ...]

    def cases(self) -> list[list[Any]]:
        """The arguments of each case with the result of the program."""
        scope: dict[str, Any] = {}
        exec(self.source, scope)
        function = scope[self.name]
        return [[list(given), function(*_copied(given))] for given in self.arguments]


def make(level: int, rng: Random) -> Item:
    """Write a programming task of this level."""
    task = task_of(level, rng)
    return checked_item(
        f"{task.description} {_END}", python={"function": task.name, "cases": task.cases()}
    )


def task_of(level: int, rng: Random) -> Task:
    """The task of an item, with the program that solves it."""
    while True:
        task = _drawn(level, rng)
        if len({str(result) for _, result in task.cases()}) >= 4:  # no constant solves it
            return task


def _drawn(level: int, rng: Random) -> Task:
    if level <= 2:
        return _one_operation(rng) if level == 1 else _formula(rng)
    if level <= 5:
        return _pipeline((1, 3, 6)[level - 3], rng)
    return _windows(rng) if level == 6 else _machine(rng)


def _copied(given: Sequence[Any]) -> list[Any]:
    return [[*value] if isinstance(value, list) else value for value in given]


def _one_operation(rng: Random) -> Task:
    word, sign = rng.choice([("plus", "+"), ("minus", "-"), ("times", "*")])
    first, second = rng.sample("abcdghkmnpqrstuvwxyz", 2)
    number = str(rng.randint(2, 99)) if rng.random() < 0.5 else second
    parameters = f"{first}, {second}" if number == second else first
    description = f"{_ASK} `f({parameters})` that returns {first} {word} {number}."
    source = f"def f({parameters}):\n    return {first} {sign} {number}\n"
    arguments = [[rng.randint(-50, 50) for _ in range(parameters.count(",") + 1)] for _ in range(6)]
    return Task("f", description, source, tuple(arguments))


def _formula(rng: Random) -> Task:
    times = rng.randint(2, 99)
    first, second = rng.sample("abcdghkmnpqrstuvwxyz", 2)
    word, sign = rng.choice([("adds", "+"), ("subtracts", "-")])
    description = (
        f"{_ASK} `f({first}, {second})` that multiplies {first} by {times}, then {word} {second}, "
        "and returns the result."
    )
    source = f"def f({first}, {second}):\n    return {times} * {first} {sign} {second}\n"
    arguments = [[rng.randint(-50, 50), rng.randint(-50, 50)] for _ in range(6)]
    return Task("f", description, source, tuple(arguments))


# What a step does with the numbers xs, in words and in code; N is a number from 2 to 5.
_STEPS = (
    ("keep only the numbers that are divisible by N", "xs = [x for x in xs if x % N == 0]"),
    ("drop the numbers that are divisible by N", "xs = [x for x in xs if x % N != 0]"),
    ("multiply each number by N", "xs = [N * x for x in xs]"),
    ("add N to each number", "xs = [x + N for x in xs]"),
    ("reverse the order of the numbers", "xs = xs[::-1]"),
    ("leave out the first N numbers", "xs = xs[N:]"),
    ("keep only the last N numbers", "xs = xs[-N:]"),
    ("sort the numbers in ascending order", "xs = sorted(xs)"),
    ("sort the numbers in descending order", "xs = sorted(xs, reverse=True)"),
    ("remove repeated numbers and keep the first of each", "xs = list(dict.fromkeys(xs))"),
    (
        "replace each number by the sum of itself and all numbers before it",
        "xs = [sum(xs[: i + 1]) for i in range(len(xs))]",
    ),
    ("replace each negative number by its absolute value", "xs = [abs(x) for x in xs]"),
    (
        "replace the list by the differences of neighbours, each number minus the one before it",
        "xs = [b - a for a, b in zip(xs, xs[1:])]",
    ),
    ("move the first number to the end, if there is one", "xs = xs[1:] + xs[:1]"),
    (
        "replace each number by its remainder when divided by N + 5",
        "xs = [x % (N + 5) for x in xs]",
    ),
    ("append the number of numbers in the list to the list", "xs = xs + [len(xs)]"),
)
_ENDS = (
    ("return the list", "return xs"),
    ("return the sum of the list", "return sum(xs)"),
    ("return the largest number, or 0 if the list is empty", "return max(xs, default=0)"),
    ("return how many numbers are left", "return len(xs)"),
)


def _pipeline(steps: int, rng: Random) -> Task:
    name = rng.choice(["transform", "process", "convert", "change_numbers"])
    chosen = rng.sample(_STEPS, steps)
    end = _ENDS[0] if steps == 1 else rng.choice(_ENDS[:3])
    texts, lines = [], []
    for text, line in chosen:
        number = rng.randint(2, 5)
        text = text.replace("N + 5", str(number + 5)).replace("N", str(number))
        texts.append(text)
        lines.append(line.replace("(N + 5)", str(number + 5)).replace("N", str(number)))
    words = "; ".join([*texts[:1], *(f"then {text}" for text in texts[1:])])
    description = (
        f"{_ASK} `{name}(xs)` that takes a list of whole numbers and does this: {words}; "
        f"finally {end[0]}."
    )
    source = "\n    ".join([f"def {name}(xs):", *lines, end[1]]) + "\n"
    return Task(name, description, source, _lists(rng))


def _lists(rng: Random) -> tuple[list[Any], ...]:
    return (
        [[]],
        *([[rng.randint(-20, 40) for _ in range(rng.randint(1, 12))]] for _ in range(9)),
    )


_CONDITIONS = (
    ("whose sum is at most {n}", "sum(part) <= {n}", (15, 40)),
    ("whose numbers are all different and whose sum is not {n}",
     "len(set(part)) == len(part) and sum(part) != {n}", (5, 20)),
    ("in which neighbours differ by at most {n}",
     "all(abs(a - b) <= {n} for a, b in zip(part, part[1:]))", (8, 18)),
    ("in which the largest minus the smallest number is at most {n}",
     "max(part) - min(part) <= {n}", (12, 30)),
    ("in which exactly {n} numbers are even", "sum(x % 2 == 0 for x in part) == {n}", (1, 3)),
)  # fmt: skip


def _windows(rng: Random) -> Task:
    """The longest part of a list that meets two conditions; ties go to the larger sum."""
    name = rng.choice(["longest_part", "best_part", "find_part"])
    words, tests = [], []
    for text, code, (low, high) in rng.sample(_CONDITIONS, 2):
        number = rng.randint(low, high)
        words.append(text.format(n=number))
        tests.append(code.format(n=number))
    description = (
        f"{_ASK} `{name}(xs)` that takes a list of whole numbers and returns the longest "
        f"contiguous part {words[0]} and {words[1]}, as a list. Of several such parts of the same "
        "length, return the one with the largest sum, and of those the first one. If there is "
        "none, return an empty list."
    )
    source = (
        f"def {name}(xs):\n    best = []\n    for i in range(len(xs)):\n"
        "        for j in range(i + 1, len(xs) + 1):\n            part = xs[i:j]\n"
        f"            if not ({tests[0]}) or not ({tests[1]}):\n                continue\n"
        "            if (len(part), sum(part)) > (len(best), sum(best)) or not best:\n"
        "                best = part\n    return best\n"
    )
    return Task(name, description, source, _lists(rng))


# Instructions of a machine with the registers a and b: words, and code; N is the argument.
_INSTRUCTIONS = (
    ("adds N to a", "a += N"), ("subtracts N from b", "b -= N"), ("swaps a and b", "a, b = b, a"),
    ("sets a to a * N minus b", "a = a * N - b"),
    ("sets b to the absolute value of a", "b = abs(a)"),
    ("sets a to its remainder when divided by N + 2", "a = a % (N + 2)"),
    ("does nothing but skip the next instruction if a is even", "i += 1 if a % 2 == 0 else 0"),
    ("does nothing but skip the next N instructions if b is negative", "i += N if b < 0 else 0"),
    ("jumps back to the first instruction if a is below N, but only the first three times that a "
     "jump is due in the whole run", "if a < N and jumps < 3:\n"
     "                jumps += 1\n                i = 0"),
    ("appends a to the output", "out.append(a)"), ("adds b to a and sets b to N", "a += b; b = N"),
)  # fmt: skip


def _machine(rng: Random) -> Task:
    name = rng.choice(["run", "execute", "simulate"])
    first, *others = _INSTRUCTIONS
    chosen = [first, *rng.sample(others, 5)]
    codes = rng.sample(["mul", "inc", "dec", "foo", "bar", "hop", "out", "rot", "zap", "set"], 6)
    words = "; ".join(f'"{code}" {text}' for code, (text, _) in zip(codes, chosen, strict=True))
    description = (
        f"{_ASK} `{name}(program)` for a machine with two registers a and b, both 0 at the start, "
        "and an output list, which is empty at the start. The program is a list of instructions "
        f"[code, N], run one after the other: {words}. The run ends after the last instruction. "
        "Return the output list with a and b appended at its end."
    )
    branches = [
        f'        {"if" if index == 0 else "elif"} code == "{code}":\n            {line}\n'
        for index, (code, (_, line)) in enumerate(zip(codes, chosen, strict=True))
    ]
    source = (
        f"def {name}(program):\n    a = b = i = jumps = 0\n    out = []\n"
        "    while i < len(program):\n        code, N = program[i]\n        i += 1\n"
        f"{''.join(branches)}    return out + [a, b]\n"
    )
    programs: list[list[Any]] = [[[]]]
    for _ in range(11):
        programs.append(
            [[[rng.choice(codes), rng.randint(1, 6)] for _ in range(rng.randint(3, 12))]]
        )
    return Task(name, description, source, tuple(programs))


CODE_WRITING = LevelSection(
    "code_writing",
    "generated",
    (
        Level("one operation on numbers", 140, 64),
        Level("two operations on numbers", 180, 100),
        Level("one operation on a list", 220, 120),
        Level("three operations on a list", 300, 160),
        Level("six operations on a list", 420, 220),
        Level("the longest part of a list under two conditions", 460, 280),
        Level("an interpreter of a small machine", 640, 400),
    ),
    make,
)
