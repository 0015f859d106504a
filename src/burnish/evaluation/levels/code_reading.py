"""Reading code: the answer is what a short Python program prints, and each program is run.

The wrong answers are what the same program prints with another number in it.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from burnish.evaluation.levels.section import Item, Level, LevelSection, continuation_item

# The programs of a level have a number that is not fixed yet.
Program = Callable[[int], str]
_WORDS = ("harbour", "lantern", "machine", "picture", "quarter", "railway", "station", "village")
_ALLOWED = {"range": range, "len": len, "sum": sum, "sorted": sorted, "abs": abs, "max": max,
            "enumerate": enumerate, "list": list, "str": str, "next": next}  # fmt: skip


def make(level: int, rng: Random) -> Item:
    """Write a program of this level and end with what it prints."""
    if level == 1:
        return _one_of_four(rng)
    while True:
        program = rng.choice(_PROGRAMS[level - 2])(rng)
        first = rng.randint(2, 9)
        sources = [program(first + offset) for offset in range(4)]
        printed = [run(source) for source in sources]
        if len(set(printed)) == len(printed) and all(printed):
            break
    index = rng.randrange(4)
    wrong = [text for place, text in enumerate(printed) if place != index]
    return _item(sources[index], printed[index], wrong, rng)


def _one_of_four(rng: Random) -> Item:
    """Four variables, of which one is printed."""
    names = rng.sample("abcdefghkmnpqrstuvwxyz", 4)
    values = [str(value) for value in rng.sample(range(11, 100), 4)]
    lines = [f"{name} = {value}" for name, value in zip(names, values, strict=True)]
    source = "\n".join([*rng.sample(lines, 4), f"print({names[0]})"])
    return _item(source, run(source), values[1:], rng)


def _item(source: str, printed: str, wrong: Sequence[str], rng: Random) -> Item:
    text = f"```python\n{source}\n```\n\nThis Python program prints:\n\n```\n"
    return continuation_item(text, printed, wrong, rng)


def run(source: str) -> str:
    """What a program written here prints; an empty text if it fails."""
    lines: list[str] = []

    def show(*values: Any) -> None:
        lines.append(" ".join(map(str, values)))

    try:
        exec(source, {"__builtins__": _ALLOWED | {"print": show}})
    except (IndexError, ZeroDivisionError):
        return ""
    return "\n".join(lines)


def _sum(rng: Random) -> Program:
    second, sign = rng.randint(2, 60), rng.choice("+*-")
    return lambda n: f"a = {n * 3}\nb = {second}\nprint(a {sign} b)"


def _change(rng: Random) -> Program:
    more, times = rng.randint(2, 30), rng.randint(2, 5)
    return lambda n: f"x = {n}\nx = x * {times}\nx = x + {more}\nprint(x)"


def _loop(rng: Random) -> Program:
    start, factor = rng.randint(0, 30), rng.randint(2, 6)
    return lambda n: (
        f"total = {start}\nfor i in range(1, {n}):\n    total += {factor} * i\nprint(total)"
    )


def _while(rng: Random) -> Program:
    stop, less = rng.randint(60, 200), rng.randint(1, 4)
    return lambda n: (
        f"x = {n}\nwhile x < {stop}:\n    x = 2 * x - {less if n > less else 1}\nprint(x)"
    )


def _slices(rng: Random) -> Program:
    words = [f'"{word}"' for word in rng.sample(_WORDS, 3)]
    length = rng.randint(3, 5)
    return lambda n: f"text = {' + '.join(words)}\npart = text[{n}:{n + length}]\nprint(part[::-1])"


def _lists(rng: Random) -> Program:
    numbers = rng.sample(range(2, 60), 9)
    step = rng.randint(2, 3)
    return lambda n: (
        f"xs = {numbers}\nxs[{n % 5}] += 10\nys = xs[{n % 5}::{step}]\nprint(sum(ys) - len(ys))"
    )


def _pairs(rng: Random) -> Program:
    size, rest = rng.randint(5, 9), rng.randint(0, 2)
    return lambda n: (
        f"count = 0\nfor i in range({size}):\n    for j in range(i):\n"
        f"        if (i * j + {rest}) % {n} < 2:\n            count += i - j\nprint(count)"
    )


def _branches(rng: Random) -> Program:
    numbers = rng.sample(range(2, 90), 8)
    return lambda n: (
        f"best, turns = 0, []\nfor x in {numbers}:\n    if x % {n} == 0:\n        best += x\n"
        f"    elif x > best:\n        best = x - {n}\n    else:\n        turns.append(x % 10)\n"
        "print(best, sum(turns))"
    )


def _recursion(rng: Random) -> Program:
    first, second, depth = rng.randint(1, 4), rng.randint(2, 4), rng.randint(6, 8)
    return lambda n: (
        f"def f(k):\n    if k < 2:\n        return k + {n}\n    if k % 3 == 0:\n"
        f"        return f(k - 1) - {first}\n    return f(k - 1) + {second} * f(k - 2)\n\n"
        f"print(f({depth}))"
    )


def _counts(rng: Random) -> Program:
    numbers = [rng.randint(1, 60) for _ in range(12)]
    return lambda n: (
        f"groups = {{}}\nfor x in {numbers}:\n"
        f"    groups[x % {n}] = groups.get(x % {n}, 0) * 2 + x\n"
        f"keys = sorted(groups, key=lambda k: (groups[k], -k))\n"
        "print(keys[-1], groups[keys[0]] + len(keys))"
    )


def _state(rng: Random) -> Program:
    a, c, m, turns = rng.randint(5, 40), rng.randint(3, 50), rng.randint(101, 997), 9
    return lambda n: (
        f"def numbers(x):\n    while True:\n        x = ({a} * x + {c}) % {m}\n"
        f"        yield x % 100\n\n"
        f"seen, source = [], numbers({n})\nfor i in range({turns}):\n    x = next(source)\n"
        "    if x in seen or x % 5 == 0:\n        seen = seen[1:] + [i]\n    else:\n"
        "        seen.append(x)\nprint(sum(k * x for k, x in enumerate(seen)) % 1000)"
    )


def _grid(rng: Random) -> Program:
    size, rule, turns = rng.randint(9, 13), rng.randint(30, 200), rng.randint(4, 6)
    return lambda n: (
        f"cells = [0] * {size}\ncells[{n % size}] = 1\ncells[2] = 1\nfor turn in range({turns}):\n"
        f"    new = []\n    for i in range({size}):\n"
        f"        k = 4 * cells[i - 1] + 2 * cells[i] + cells[(i + 1) % {size}]\n"
        f"        new.append({rule} >> k & 1)\n    cells = new\n"
        f"print(*cells)"
    )


_PROGRAMS = (
    (_sum, _change),
    (_loop, _while),
    (_slices, _lists),
    (_pairs, _branches),
    (_recursion, _counts),
    (_state, _grid),
)
CODE_READING = LevelSection(
    "code_reading",
    "scored",
    (
        Level("the value of one of four variables", 90),
        Level("two or three assignments", 90),
        Level("a loop over numbers", 110),
        Level("slices of texts and lists", 130),
        Level("nested loops and branches", 170),
        Level("recursion and dictionaries", 230),
        Level("generators, changing lists and cellular automata", 260),
    ),
    make,
)
