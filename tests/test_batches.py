"""Splits and loaders: every character where it belongs, the same batch for the same seed."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.batches import build_loader, gather_batch, split_text
from charlm_jax.types import CharlmError


def _rows(loader_name: str, characters: int, length: int, batch: int, seed: int = 0) -> np.ndarray:
    """The starts of an epoch's rows that count, in order."""
    loader = build_loader(
        loader_name, characters=characters, sequence_length=length, batch_size=batch
    )
    plan = loader.plan(jax.random.key(seed))
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
    loader = build_loader("chunks", characters=103, sequence_length=4, batch_size=6)
    mask_EB = np.asarray(loader.plan(jax.random.key(0)).mask_EB)
    assert mask_EB.sum(axis=1).tolist() == [6, 6, 6, 2]


def test_crops_start_anywhere_and_stay_inside() -> None:
    characters, length = 30, 4
    rows = _rows("crops", characters, length, 500)
    assert set(rows) == set(range(characters - length))
    assert len(rows) == 500  # ceil(30 / (500 * 4)) batches


@pytest.mark.parametrize("name", ["chunks", "crops"])
def test_an_epoch_is_a_function_of_its_key(name: str) -> None:
    first, again, other = (_rows(name, 1000, 7, 16, seed) for seed in (1, 1, 2))
    assert (first == again).all() and not (first == other).all()


def test_a_batch_is_the_text_and_the_same_shifted_by_one() -> None:
    ids_N = jax.numpy.arange(50, dtype=np.uint8)
    inputs_BT, targets_BT = gather_batch(ids_N, jax.numpy.array([0, 7, 45]), sequence_length=4)
    assert inputs_BT.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10], [45, 46, 47, 48]]
    assert (targets_BT == inputs_BT + 1).all()


@given(
    characters=st.integers(2, 5000),
    valid_fraction=st.floats(0.001, 0.999),
    length=st.integers(1, 400),
    kind=st.sampled_from(["tail", "none"]),
)
def test_a_split_covers_the_text_or_names_the_smallest_that_would_do(
    characters: int, valid_fraction: float, length: int, kind: str
) -> None:
    def split(characters: int) -> dict[str, range]:
        return split_text(
            characters, kind=kind, valid_fraction=valid_fraction, sequence_length=length
        )

    try:
        parts = split(characters)
    except CharlmError as error:
        smallest = int(str(error).split("a text of ")[1].split()[0])
        assert smallest > characters
        assert len(split(smallest)["train"]) > length
        with pytest.raises(CharlmError):
            split(smallest - 1)
    else:
        places = [place for part in parts.values() for place in part]
        assert places == list(range(characters))
        assert len(parts["train"]) > length and all(map(len, parts.values()))


def test_tiny_shakespeare_is_cut_where_others_cut_it() -> None:
    parts = split_text(1_115_394, kind="tail", valid_fraction=0.1, sequence_length=40)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 1_003_854,
        "valid": 111_540,
    }


def test_unknown_names_are_errors_that_list_the_known() -> None:
    with pytest.raises(CharlmError, match="tail, none"):
        split_text(100, kind="head", valid_fraction=0.1, sequence_length=4)
    with pytest.raises(CharlmError, match="chunks, crops"):
        build_loader("chunk", characters=100, sequence_length=4, batch_size=2)
