"""Dealing an epoch's positions out to ranks: each once, whatever the number of ranks, also after interruptions."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predecode.reader.dealing import Deal, Tail
from predecode.transforms.errors import UsageError

ITEMS = st.integers(0, 200)
BATCH = st.integers(1, 9)
RANKS = st.integers(1, 12)
TAILS = st.sampled_from(["exact", "even"])
SETTINGS = st.fixed_dictionaries({"num_items": ITEMS, "batch_size": BATCH, "tail": TAILS, "drop_last": st.booleans()})


def deals(world_size: int, **asked: Any) -> list[Deal]:
    return [Deal(rank=rank, world_size=world_size, **asked) for rank in range(world_size)]


def steps(ranks: list[Deal]) -> list[list[int]]:
    """Per step the positions that all ranks together get, in order of ranks."""
    together = zip_longest(*(deal.batches() for deal in ranks), fillvalue=(0, 0))
    return [[position for batch in step for position in range(*batch)] for step in together]


@given(ITEMS, BATCH, RANKS, st.integers(0, 200))
def test_exact_deals_each_position_once_in_order(items: int, batch: int, world_size: int, first: int) -> None:
    first = min(first, items)
    ranks = deals(world_size, num_items=items, batch_size=batch, tail="exact", first_position=first)
    assert list(chain(*steps(ranks))) == list(range(first, items))
    counts = [deal.num_batches() for deal in ranks]
    assert max(counts) - min(counts) <= 1


@given(ITEMS, BATCH, RANKS, st.integers(0, 200))
def test_even_deals_alike_and_leaves_few_out(items: int, batch: int, world_size: int, first: int) -> None:
    first = min(first, items)
    ranks = deals(world_size, num_items=items, batch_size=batch, tail="even", first_position=first)
    dealt = list(chain(*steps(ranks)))
    assert dealt == list(range(first, first + len(dealt)))
    assert 0 <= items - first - len(dealt) < world_size
    sizes = [[stop - start for start, stop in deal.batches()] for deal in ranks]
    assert all(size == sizes[0] for size in sizes)
    assert all(deal.position_after(deal.num_batches()) == items for deal in ranks)


@given(ITEMS, BATCH, RANKS, TAILS)
def test_drop_last_deals_full_batches_only(items: int, batch: int, world_size: int, tail: Tail) -> None:
    ranks = deals(world_size, num_items=items, batch_size=batch, tail=tail, drop_last=True)
    for deal in ranks:
        assert all(stop - start == batch for start, stop in deal.batches())
        assert deal.num_batches() == items // (batch * world_size)
    dealt = list(chain(*steps(ranks)))
    assert dealt == list(range(len(dealt)))


@given(SETTINGS, RANKS)
def test_batches_are_as_many_as_announced(asked: dict[str, Any], world_size: int) -> None:
    for deal in deals(world_size, **asked):
        sizes = [stop - start for start, stop in deal.batches()]
        assert len(sizes) == deal.num_batches()
        assert all(0 < size <= deal.batch_size for size in sizes)
        assert all(size == deal.batch_size for size in sizes[:-1])


@given(ITEMS, BATCH, RANKS, RANKS, TAILS)
def test_stopped_at_every_step_and_resumed(items: int, batch: int, before: int, after: int, tail: Tail) -> None:
    ranks = deals(before, num_items=items, batch_size=batch, tail=tail)
    taken = steps(ranks)
    for count in range(len(taken) + 1):
        positions = {deal.position_after(count) for deal in ranks}
        assert len(positions) == 1
        (position,) = positions
        resumed = deals(after, num_items=items, batch_size=batch, tail=tail, first_position=position)
        dealt = list(chain(*taken[:count], *steps(resumed)))
        left_out = 0 if tail == "exact" else max(before, after) - 1
        assert dealt == list(range(len(dealt)))
        assert items - left_out <= len(dealt) <= items


@given(SETTINGS, st.lists(st.tuples(RANKS, st.integers(0, 4)), min_size=1, max_size=8), RANKS)
def test_resumed_again_and_again_with_other_ranks(
    asked: dict[str, Any], runs: list[tuple[int, int]], last: int
) -> None:
    items, position, dealt = asked["num_items"], 0, list[int]()
    for world_size, count in [*runs, (last, items + 1)]:
        ranks = deals(world_size, first_position=position, **asked)
        dealt += chain(*steps(ranks)[:count])
        position = ranks[-1].position_after(count)
    assert dealt == list(range(len(dealt)))
    assert position == items
    if asked["tail"] == "exact" and not asked["drop_last"]:
        assert len(dealt) == items


@given(SETTINGS, RANKS)
def test_resumed_with_the_same_ranks_goes_on_as_it_would_have(asked: dict[str, Any], world_size: int) -> None:
    for deal in deals(world_size, **asked):
        expected = list(deal.batches())
        for count in range(len(expected) + 1):
            resumed = replace(deal, first_position=deal.position_after(count))
            assert list(resumed.batches()) == expected[count:]


def test_an_epoch_that_is_over_stays_over() -> None:
    """What drop_last or an even tail has left out is not dealt to fewer ranks afterwards."""
    four = Deal(num_items=100, batch_size=10, world_size=4, drop_last=True)
    assert four.num_batches() == 2
    assert four.position_after(2) == 100
    assert Deal(num_items=100, batch_size=10, first_position=100).num_batches() == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch size of at least 1"),
        ({"num_items": -1}, "no negative number of items"),
        ({"rank": 2, "world_size": 2}, r"rank in \[0, world_size\), got rank 2 of 2"),
        ({"rank": -1}, "got rank -1 of 1"),
        ({"world_size": 0}, "got rank 0 of 0"),
        ({"first_position": 11}, "first position from 0 to 10"),
        ({"first_position": -1}, "first position from 0 to 10"),
        ({"tail": "odd"}, "one of exact, even, got 'odd'"),
    ],
)
def test_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Deal(**{"num_items": 10, "batch_size": 4} | wrong)
