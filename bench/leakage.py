"""The leakage certificate at scale: processor seconds and memory by the number of learnt rows.

    python bench/leakage.py [--rows 1000000] [--words 20]

Rows of random words under one system prompt, made one by one, against the suite `core` and 10,000
test rows; one row in a thousand holds an item of the suite. Making the rows is timed alone and
taken off. Prints a line a size, each measured in a process of its own.
"""

import argparse
import multiprocessing
import random
import resource
import time
from collections.abc import Iterator

from burnish.conversation import Example, Message
from burnish.evaluation.contamination import Text, find_leakage, text_of, texts_of
from burnish.evaluation.suite import load_suite

SYSTEM = "Sort the message into one queue, and answer with the name of the queue and nothing else."
TEST_ROWS = 10_000


def rows(count: int, words: int, seed: int, planted: list[str]) -> Iterator[Text]:
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("aeioubcdfghlmnprst", k=6)) for _ in range(20_000)]
    for number in range(count):
        said = " ".join(draw.choices(vocabulary, k=words)).capitalize() + "."
        if planted and number % 1000 == 0:
            said = planted[number // 1000 % len(planted)]
        turns = (Message("system", SYSTEM), Message("user", said), Message("assistant", "refunds"))
        yield text_of(Example(str(number), turns, label="refunds"))


def measure(count: int, words: int) -> str:
    suite = load_suite("core")
    judging = {"test": list(rows(TEST_ROWS, words, 1, []))}
    judging |= {task.name: texts_of(task) for task in (*suite.sections, *suite.texts)}
    planted = [text.own[0][0] for text in judging["core.facts"]]
    started = time.process_time()
    for _ in rows(count, words, 2, planted):
        pass
    making = time.process_time() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = find_leakage({"train": rows(count, words, 2, planted)}, judging)
    seconds = time.process_time() - started - 2 * making
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert set(found.leaked) == {"core.facts"}
    return f"{count:9,} rows {seconds:7.1f} s {more:7.1f} MB more, {found.leaked} leaked"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=20)
    given = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for count in (given.rows // 100, given.rows // 10, given.rows):
            print(pool.apply(measure, (count, given.words)), flush=True)


if __name__ == "__main__":
    main()
