"""Units are picked and scored on pieces from the whole of a text."""

from pathlib import Path
from typing import Any

import pytest

from charlm_jax.comparison.units import corpus_units
from charlm_jax.inference.run import load_run


def test_pieces_of_the_longer_text_are_spread_over_it(
    seeded_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked: list[list[range]] = []

    def rank_units(*_: object, picked: list[range], tested: list[range], **__: Any) -> None:
        ranked.extend((picked, tested))

    monkeypatch.setattr("charlm_jax.comparison.units.rank_units", rank_units)
    monkeypatch.setattr("charlm_jax.comparison.units.PIECE", 150)
    run = load_run(seeded_runs / "size_6_seed_1")
    dataset = run.dataset()
    assert corpus_units(run, dataset, "valid", label="x") is None
    for pieces, split in zip(ranked, ("train", "valid"), strict=True):
        (part,) = dataset.part(split)  # of 900 and 2,100 characters
        assert len(pieces) == 5 and len(set(pieces)) == 5
        quarter = len(part) // 4
        assert pieces[0].start < part.start + quarter
        assert pieces[-1].stop > part.stop - quarter
