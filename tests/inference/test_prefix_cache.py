"""The trunk cache: what is shared, what is kept, what goes."""

import pytest
import torch

from burnish.inference.kv_cache import KVRow, Segment
from burnish.inference.prefix_cache import PrefixCache
from burnish.inference.rows import common_prefix_length, total_slots


def row(tokens: list[int], adapter: int = 0) -> KVRow:
    """A row whose keys are its tokens and whose values are their squares."""
    made = KVRow(adapter, own=Segment(len(tokens)))
    write(made, tokens)
    return made


def write(made: KVRow, tokens: list[int]) -> None:
    made.own = made.own.with_room(len(tokens))
    keys = torch.tensor(tokens, dtype=torch.float32)[None, None, :, None]
    made.own.write(0, torch.cat([keys, keys**2]))
    made.own.advance(len(tokens))
    made.tokens.extend(tokens)


def contents(made: KVRow) -> list[float]:
    own = made.own.layers[0][:, 0, : made.own.length, 0] if made.own.layers else torch.zeros(2, 0)
    parts = [own]
    if made.trunk is not None:
        parts.insert(0, made.trunk.layers[0][:, 0, : made.shared, 0])
    keys, values = torch.cat(parts, dim=1)
    assert values.tolist() == (keys**2).tolist()
    return keys.tolist()


@pytest.mark.parametrize(
    ("one", "other", "length"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 9, 3], [1, 2, 3], 1)]
)
def test_common(one: list[int], other: list[int], length: int) -> None:
    assert common_prefix_length(one, other) == common_prefix_length(other, one) == length
    assert common_prefix_length(one, other, least=length) == 0


def test_common_of_long_rows() -> None:
    one = list(range(1000))
    for place in (0, 1, 499, 998, 999):
        other = [*one[:place], -1, *one[place + 1 :]]
        assert common_prefix_length(one, other) == place


@pytest.mark.parametrize("length", [1, 31, 32, 60, 99, 100, 140, 149])
@pytest.mark.parametrize("grown", [False, True])
def test_a_branch_of_any_length_has_the_same_places(length: int, grown: bool) -> None:
    """Of a row of its own, and of one with a trunk of 100 places and 50 of its own."""
    source = row(list(range(150)))
    if grown:
        source = row(list(range(100))).branch(100, 100)
        write(source, list(range(100, 150)))
        assert source.shared == 100
    branch = source.branch(length, 200)
    assert contents(branch) == branch.tokens == list(range(length))
    write(source, [7] * 300)  # more than fits in: what others look at stays
    write(branch, [500, 501])
    assert contents(branch) == [*range(length), 500, 501]
    assert contents(source) == [*range(150), *[7] * 300]


def test_branches_of_branches_look_at_one_segment() -> None:
    source = row(list(range(100)))
    first = source.branch(100, 120)
    write(first, [1, 2])
    second = first.branch(101, 120)
    assert first.trunk is second.trunk is source.own
    assert total_slots([source, first, second]) == 100 + 2 * 64
    # Where most would be copied, it is made a trunk of its own, once.
    short = row(list(range(40))).branch(40, 50)
    write(short, list(range(40, 140)))
    branches = [short.branch(140, 150) for _ in range(2)]
    assert branches[0].trunk is branches[1].trunk
    assert branches[0].shared == 140


def test_the_longest_beginning_of_the_same_adapter() -> None:
    prefix_cache = PrefixCache(10_000)
    prefix_cache.add(row([1, 2, 3, 4], adapter=1))
    prefix_cache.add(row([1, 2, 9]))
    running = row([1, 2, 3])
    found, length = prefix_cache.longest_match(0, [1, 2, 3, 4, 5], [running])
    assert (found, length) == (running, 3)
    assert prefix_cache.longest_match(1, [1, 2, 3, 4, 5], [running])[1] == 4
    assert prefix_cache.longest_match(1, [1, 2, 3, 4], [])[1] == 3, "one token is left to compute"
    assert prefix_cache.longest_match(2, [1, 2], []) == (None, 0)


def test_the_least_recently_used_goes_first() -> None:
    prefix_cache = PrefixCache(3 * 64)
    for first in (1, 2, 3):
        prefix_cache.add(row([first] * 10))
    assert prefix_cache.longest_match(0, [1] * 20, [])[1] == 10
    running = row([4] * 10)
    assert prefix_cache.evict_until_fits([running])
    assert prefix_cache.longest_match(0, [2] * 20, [])[1] == 0
    assert prefix_cache.longest_match(0, [1] * 20, [])[1] == 10
    assert not prefix_cache.evict_until_fits([running], more=3 * 64)
    assert len(prefix_cache) == 0


def test_a_row_replaces_its_own_beginnings() -> None:
    prefix_cache = PrefixCache(1000)
    prefix_cache.add(row([1, 2]))
    prefix_cache.add(row([1, 2, 3]))
    prefix_cache.add(row([1, 2]))
    assert len(prefix_cache) == 1
    prefix_cache.add(row([1, 2], adapter=5))
    prefix_cache.keep_adapters({5})
    assert len(prefix_cache) == 1
    assert prefix_cache.longest_match(0, [1, 2, 3], [])[1] == 0
