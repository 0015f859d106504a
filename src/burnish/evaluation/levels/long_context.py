"""Long context: facts and chains of values among unrelated sentences, 0.5k to 32k tokens long.

All choices stand in the text, so none is right merely because it occurs. After needle-in-a-haystack
and RULER (Hsieh et al. 2024, arXiv 2404.06654).
"""

from collections.abc import Sequence
from random import Random

from burnish.evaluation.levels.section import Item, Level, LevelSection, completion_item
from burnish.evaluation.levels.words import COLOURS, PEOPLE, PLACES, THINGS, WEEKDAYS

# Sentences of a text of about 0.5k, 2k, 8k and 32k tokens, and the bound of its tokens.
_LENGTHS = {"0.5k": 24, "2k": 128, "8k": 560, "32k": 2300}
_BOUNDS = {"0.5k": 512, "2k": 2048, "8k": 8192, "32k": 32768}
_VERBS = ("found", "lost", "sold", "painted", "counted", "carried", "wrapped", "hid", "cleaned",
          "bought", "dropped", "moved")  # fmt: skip
_KEYS = ("chest", "safe", "locker", "cupboard", "trunk", "drawer", "suitcase", "cabinet")
# Length and hops of each level.
_NEEDLES = (("0.5k", 1), ("2k", 1), ("2k", 2), ("8k", 1), ("8k", 2), ("32k", 1), ("32k", 2))
_CHAINS = (("0.5k", 1), ("0.5k", 3), ("2k", 3), ("8k", 4), ("32k", 6))


def make_needles(level: int, rng: Random) -> Item:
    """Hide four codes in a text and ask for one, by its place or by its owner."""
    length, hops = _NEEDLES[level - 1]
    keys = [f"{colour} {rng.choice(_KEYS)}" for colour in rng.sample(COLOURS, 4)]
    codes = [str(code) for code in rng.sample(range(1000, 10000), 4)]
    owners = rng.sample(PEOPLE, 4)
    facts = [f"The code of the {key} is {code}." for key, code in zip(keys, codes, strict=True)]
    question = f"The code of the {keys[0]} is"
    if hops == 2:
        facts += [f"The {key} belongs to {who}." for key, who in zip(keys, owners, strict=True)]
        question = f"The code of the thing that belongs to {owners[0]} is"
    text = _hidden(facts, _LENGTHS[length], owners, rng)
    return completion_item(f"{text}\n\n{question}", codes[0], codes[1:], rng)


def make_chains(level: int, rng: Random) -> Item:
    """Hide four chains of names that stand for a number each, and ask for the end of one."""
    length, steps = _CHAINS[level - 1]
    values = [str(value) for value in rng.sample(range(10000, 100000), 4)]
    names = [f"V{number}" for number in rng.sample(range(100, 1000), 4 * steps)]
    chains = [names[index * steps : (index + 1) * steps] for index in range(4)]
    order = [index for index in range(4) for _ in range(steps)]
    rng.shuffle(order)  # the chains are told step by step, one among the other
    told, facts = [0, 0, 0, 0], []
    for index in order:
        chain, step = chains[index], told[index]
        value = f"the value {values[index]}" if step == 0 else f"the value of {chain[step - 1]}"
        facts.append(f"{chain[step]} has {value}.")
        told[index] += 1
    text = _hidden(facts, _LENGTHS[length], [], rng, ordered=True)
    question = f"So {chains[0][-1]} has the value"
    return completion_item(f"{text}\n\n{question}", values[0], values[1:], rng)


def _hidden(
    facts: Sequence[str],
    sentences: int,
    names: Sequence[str],
    rng: Random,
    *,
    ordered: bool = False,
) -> str:
    """The facts at random places among unrelated sentences, which name none of the names."""
    people = [person for person in PEOPLE if person not in names]
    text = [_sentence(people, rng) for _ in range(sentences - len(facts))]
    places = sorted(rng.sample(range(len(text) + 1), len(facts)))
    shown = list(facts) if ordered else rng.sample(facts, len(facts))
    for place, fact in sorted(zip(places, shown, strict=True), reverse=True):
        text.insert(place, fact)
    return " ".join(text)


def _sentence(people: Sequence[str], rng: Random) -> str:
    colour = rng.choice(COLOURS)
    return (
        f"{rng.choice(people)} {rng.choice(_VERBS)} {rng.randint(2, 99)} {colour} "
        f"{rng.choice(THINGS)} in the {rng.choice(PLACES)} on {rng.choice(WEEKDAYS)}."
    )


NEEDLES = LevelSection(
    "needles",
    "scored",
    tuple(
        Level(
            f"{'one fact' if hops == 1 else 'two facts together'} in {length} tokens",
            _BOUNDS[length],
        )
        for length, hops in _NEEDLES
    ),
    make_needles,
)
VARIABLE_TRACKING = LevelSection(
    "variable_tracking",
    "scored",
    tuple(
        Level(
            f"{'one step' if steps == 1 else f'{steps} steps'} in {length} tokens", _BOUNDS[length]
        )
        for length, steps in _CHAINS
    ),
    make_chains,
)
