"""Loaders: every character where it belongs, the same batch for the same seed."""

import math

import jax
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data import loaders
from charlm_jax.data.loaders import build_loader, gather_batch


def _rows(loader_name: str, characters: int, length: int, batch: int, seed: int = 0) -> np.ndarray:
    """The starts of an epoch's rows that count, in order."""
    loader = build_loader(
        loader_name, part=(range(characters),), sequence_length=length, batch_size=batch
    )
    plan = loader.plan(jax.random.key(seed), 0)
    assert plan.starts_EB.shape == plan.mask_EB.shape == (loader.steps_per_epoch, batch)
    assert loader.characters_per_epoch == int(plan.mask_EB.sum()) * length
    return np.asarray(plan.starts_EB)[np.asarray(plan.mask_EB)]


@pytest.mark.core
@pytest.mark.parametrize(
    ("characters", "length", "batch"), [(103, 4, 6), (100, 4, 5), (5, 4, 3), (61, 1, 30)]
)
def test_chunks_read_every_whole_piece_once(characters: int, length: int, batch: int) -> None:
    rows = _rows("chunks", characters, length, batch)
    size = length + 1
    assert sorted(rows) == list(range(0, characters // size * size, size))


def test_only_the_last_batch_of_chunks_is_short() -> None:
    loader = build_loader("chunks", part=(range(103),), sequence_length=4, batch_size=6)
    mask_EB = np.asarray(loader.plan(jax.random.key(0), 0).mask_EB)
    assert mask_EB.sum(axis=1).tolist() == [6, 6, 6, 2]


def test_crops_start_anywhere_and_stay_inside() -> None:
    characters, length = 30, 4
    rows = _rows("crops", characters, length, 500)
    assert set(rows) == set(range(characters - length))
    assert len(rows) == 500  # ceil(30 / (500 * 4)) batches


@pytest.mark.parametrize("name", ["chunks", "crops", "streams"])
def test_an_epoch_is_a_function_of_its_key_and_number(name: str) -> None:
    loader = build_loader(
        name, part=(range(1000),), sequence_length=7, batch_size=16, reset_probability=0.5
    )

    def plan(seed: int, epoch: int) -> np.ndarray:
        found = loader.plan(jax.random.key(seed), epoch)
        return np.asarray(found.fresh_EB if name == "streams" else found.starts_EB)

    np.testing.assert_array_equal(plan(1, 3), plan(1, 3))
    for other in (plan(2, 3), plan(1, 4), plan(1, 0)):
        assert np.mean(plan(1, 3) == other) < 0.7


def test_a_batch_is_the_text_and_the_same_shifted_by_one() -> None:
    ids_N = jax.numpy.arange(50, dtype=np.uint8)
    inputs_BT, targets_BT = gather_batch(ids_N, jax.numpy.array([0, 7, 45]), sequence_length=4)
    assert inputs_BT.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10], [45, 46, 47, 48]]
    assert (targets_BT == inputs_BT + 1).all()


PART = (range(3, 40), range(45, 48), range(60, 131))  # the middle one holds no piece of 5


@pytest.mark.parametrize("name", ["chunks", "crops", "streams"])
def test_a_piece_lies_in_one_stretch_of_the_part(name: str) -> None:
    loader = build_loader(name, part=PART, sequence_length=4, batch_size=7)
    inside = {place for stretch in PART for place in stretch}
    seen: set[int] = set()
    for epoch in range(60):
        plan = loader.plan(jax.random.key(0), epoch)
        seen |= set(np.asarray(plan.starts_EB)[np.asarray(plan.mask_EB)].tolist())
    step = {"chunks": 5, "crops": 1, "streams": 4}[name]
    whole = {start for stretch in PART for start in stretch[: max(0, len(stretch) - 4) : step]}
    assert seen == whole <= inside


@pytest.mark.core
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_stream_reads_on_where_it_stopped_and_starts_anew_at_a_beginning(batch: int) -> None:
    """Over many epochs: every row's next piece begins at the last one's last target."""
    loader = build_loader("streams", part=PART, sequence_length=4, batch_size=batch)
    assert loader.carries_state
    assert loader.steps_per_epoch == math.ceil(111 / (4 * batch))
    plans = [loader.plan(jax.random.key(0), epoch) for epoch in range(30)]
    starts_SB = np.concatenate([np.asarray(plan.starts_EB) for plan in plans])
    fresh_SB = np.concatenate([np.asarray(plan.fresh_EB) for plan in plans])
    assert all(np.asarray(plan.mask_EB).all() for plan in plans)
    assert fresh_SB[0].all()
    begins = np.isin(starts_SB, [3, 60])
    np.testing.assert_array_equal(fresh_SB[1:], begins[1:])
    goes_on = starts_SB[1:] == starts_SB[:-1] + 4
    np.testing.assert_array_equal(goes_on, ~fresh_SB[1:])
    assert len(set(starts_SB[0])) == batch  # nobody reads along with another


def test_streams_read_every_piece_once_in_an_epoch_and_a_little_more() -> None:
    loader = build_loader("streams", part=(range(1001),), sequence_length=10, batch_size=4)
    starts = np.asarray(loader.plan(jax.random.key(0), 0).starts_EB)
    counts = np.unique(starts, return_counts=True)[1]
    assert len(counts) == 100 and starts.size == 26 * 4 and counts.max() <= 2


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_rows_of_streams_are_reset_at_random(probability: float, share: float) -> None:
    loader = build_loader(
        "streams",
        part=(range(100_000),),
        sequence_length=4,
        batch_size=50,
        reset_probability=probability,
    )
    plans = [loader.plan(jax.random.key(seed), 3) for seed in (0, 0, 1)]
    first, again, other = (np.asarray(plan.fresh_EB) for plan in plans)
    assert first.mean() == pytest.approx(share, abs=0.02)
    assert (first == again).all() and ((first == other).all() == (share in (0.0, 1.0)))


def test_more_streams_than_pieces_are_refused() -> None:
    with pytest.raises(CharlmError, match="it has 9 pieces"):
        build_loader("streams", part=(range(100),), sequence_length=10, batch_size=10)


def test_unknown_names_are_errors_that_list_the_known() -> None:
    with pytest.raises(CharlmError, match="chunks, crops, streams"):
        build_loader("chunk", part=(range(100),), sequence_length=4, batch_size=2)


# Epochs that are too long to be planned at once.


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MOST_PLANNED", 20)
    monkeypatch.setattr(loaders, "_ROWS_OF_BLOCK", 15)


def _planned(loader: loaders.Loader, seed: int, epoch: int) -> tuple[np.ndarray, ...]:
    """The plan of a long epoch: its blocks joined, without the batches after its end."""
    blocks = -(-loader.steps_per_epoch // loader.steps_per_block)
    plans = [loader.plan(jax.random.key(seed), epoch, block) for block in range(blocks)]
    assert all(plan.starts_EB.shape[0] == loader.steps_per_block for plan in plans)
    steps = loader.steps_per_epoch
    return tuple(np.concatenate(arrays)[:steps] for arrays in zip(*plans, strict=True))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("part", [(range(503),), PART, (range(10, 700), range(800, 805))])
def test_a_long_epoch_of_chunks_is_every_piece_once_in_an_order_of_its_own(
    part: tuple[range, ...],
) -> None:
    loader = build_loader("chunks", part=part, sequence_length=4, batch_size=4)
    assert loader.steps_per_block == 3 < loader.steps_per_epoch
    whole = sorted(start for r in part for start in range(r.start, r.stop - 4, 5))
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        starts_EB, mask_EB, fresh_EB = _planned(loader, seed, epoch)
        assert fresh_EB.all() and mask_EB[:-1].all() and mask_EB[-1, 0]
        orders.append(starts_EB[mask_EB].tolist())
        assert sorted(orders[-1]) == whole
    assert orders[0] == orders[3]
    assert whole not in orders and len({*map(tuple, orders)}) == 3


@pytest.mark.usefixtures("blocks")
def test_a_long_epoch_of_crops_starts_anywhere_inside() -> None:
    loader = build_loader("crops", part=PART, sequence_length=4, batch_size=4)
    plans = [_planned(loader, seed, epoch) for seed in (0, 1) for epoch in range(40)]
    inside = {start for r in PART for start in range(r.start, r.stop - 4)}
    assert {*np.concatenate([starts_EB for starts_EB, _, _ in plans]).ravel().tolist()} == inside
    assert len({starts_EB[:6].tobytes() for starts_EB, _, _ in plans}) == 80
    assert (plans[0][0][:3] != plans[0][0][3:6]).any()  # blocks differ


@pytest.mark.usefixtures("blocks")
def test_a_long_epoch_of_streams_reads_as_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"part": PART, "sequence_length": 4, "batch_size": 4}
    long = build_loader("streams", **how)
    of_long = [_planned(long, 0, epoch) for epoch in range(9)]
    monkeypatch.setattr(loaders, "MOST_PLANNED", 1 << 22)
    short = build_loader("streams", **how)
    assert long.steps_per_block < short.steps_per_block == short.steps_per_epoch
    for epoch, plan in enumerate(of_long):
        for one, other in zip(plan, short.plan(jax.random.key(0), epoch), strict=True):
            np.testing.assert_array_equal(one, other)
    resets = build_loader("streams", **how, reset_probability=0.5)
    assert 0.4 < np.mean([resets.plan(jax.random.key(0), n).fresh_EB for n in range(30)]) < 0.6


def test_no_array_of_a_long_epoch_grows_with_the_text() -> None:
    """Two billion characters, which nobody has to have."""
    for name in ("chunks", "crops", "streams"):
        loader = build_loader(name, part=(range(2_000_000_000),), sequence_length=64, batch_size=32)
        assert loader.steps_per_epoch > 900_000
        last = (loader.steps_per_epoch - 1) // loader.steps_per_block
        for block in (0, last):
            plan = loader.plan(jax.random.key(0), 1, block)
            assert plan.starts_EB.size == 1 << 18 and plan.starts_EB.min() >= 0
            assert plan.starts_EB.max() + 64 < 2_000_000_000
