"""A text as a run sees it: parts, vocabulary, fingerprint."""

from pathlib import Path

import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from tests.conftest import make_tiny_config


def _config(path: Path, **changes: object) -> object:
    return make_tiny_config(**{"data.corpus": str(path), **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A text whose last tenth has a symbol of its own."""
    path = tmp_path / "text.txt"
    path.write_text("abcabcabc\n" * 90 + "abzabzabz\n" * 10)
    return path


@pytest.mark.core
def test_symbols_come_from_the_whole_text_unless_told_otherwise(path: Path, tmp_path: Path) -> None:
    whole = load_dataset(_config(path))
    assert whole.vocabulary.symbols == "\nabcz"
    with pytest.raises(CharlmError, match=r"'z' \(U\+007A\).* --config.split.vocabulary=all"):
        load_dataset(_config(path, **{"split.vocabulary": "train"}))
    path.write_text("abc\n" * 250)
    both = [load_dataset(_config(path, **{"split.vocabulary": kind})) for kind in ("all", "train")]
    assert both[0].fingerprint == both[1].fingerprint
    np.testing.assert_array_equal(both[0].ids_N, both[1].ids_N)
    with pytest.raises(CharlmError, match="all, train"):
        load_dataset(_config(path, **{"split.vocabulary": "valid"}))


def test_the_fingerprint_is_that_of_text_and_parts(path: Path) -> None:
    changes = [
        {},
        {"split.valid_fraction": 0.2},
        {"split.test_fraction": 0.1},
        {"split.kind": "interleaved", "split.guard": 5, "split.blocks": 2},
        {"split.kind": "interleaved", "split.guard": 6, "split.blocks": 2},
        {"split.kind": "none"},
    ]
    prints = [load_dataset(_config(path, **change)).fingerprint for change in changes]
    assert len(set(prints)) == len(prints)
    assert load_dataset(_config(path, **{"seed": 9})).fingerprint == prints[0]
    path.write_text(path.read_text() + "a")
    assert load_dataset(_config(path)).fingerprint != prints[0]


def test_counts_take_the_place_of_fractions(path: Path) -> None:
    """1,000 characters: the same parts are the same text, however they are said."""
    by_counts = load_dataset(_config(path, **{"split.counts": "0.8K/rest/100"}))
    by_fractions = load_dataset(_config(path, **{"split.test_fraction": 0.1}))
    assert by_counts.parts == by_fractions.parts
    assert by_counts.fingerprint == by_fractions.fingerprint
    with pytest.raises(
        CharlmError, match=r"split\.counts=.* empty unless config\.split\.kind=tail"
    ):
        _config(path, **{"split.counts": "900/100", "split.kind": "none"})


def test_bytes_are_another_text(path: Path) -> None:
    """Even where each character is a byte: a result never passes from one to the other."""
    of_bytes = load_dataset(_config(path, **{"data.unit": "bytes"}))
    of_characters = load_dataset(_config(path))
    assert of_bytes.parts == of_characters.parts
    np.testing.assert_array_equal(of_bytes.ids_N, of_characters.ids_N)
    assert of_bytes.fingerprint != of_characters.fingerprint
    path.write_bytes(b"ab\r\n" * 250)
    dataset = load_dataset(_config(path, **{"data.unit": "bytes"}))
    assert dataset.vocabulary.symbols == "\n\rab" and dataset.vocabulary.unit == "bytes"
    assert len(dataset.ids_N) == 1000
    with pytest.raises(CharlmError, match=r"utf-8 under config\.data\.unit=bytes"):
        _config(path, **{"data.unit": "bytes", "data.encoding": "latin-1"})


def test_the_fingerprint_of_characters_is_that_of_earlier_versions(path: Path) -> None:
    wanted = "4d85a005ad7399cbac4b47bf84d18d98bf5d4a89b8a696de988b156a9e7bc198"
    assert load_dataset(_config(path)).fingerprint == wanted


def test_a_part_that_is_not_there_says_how_to_have_it(path: Path) -> None:
    dataset = load_dataset(_config(path))
    assert set(dataset.parts) == {"train", "valid"}
    with pytest.raises(CharlmError, match=r"no 'test' part: .*split.test_fraction"):
        dataset.part("test")
    with pytest.raises(CharlmError, match="unknown part 'dev': this run has train, valid"):
        dataset.part("dev")
