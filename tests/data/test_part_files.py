"""Files whose names say which part of a text they are."""

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import Dataset, load_dataset, refuse_joined_parts
from charlm_jax.data.loaders import build_loader
from charlm_jax.data.part_files import PART_WORDS, choose_part_files, find_part_files
from charlm_jax.data.splits import size, target_positions
from charlm_jax.evaluation.protocol import Sliding, Stream, Window
from charlm_jax.sweeps.local import check_points
from charlm_jax.sweeps.points import Point
from tests.conftest import ROOT, TINY, make_tiny_config

TEXTS = {"train": "abcd" * 30, "valid": "bcda" * 10, "test": "cdab" * 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, text in TEXTS.items():
        (tmp_path / f"{part}.txt").write_text(text)
    return tmp_path


def _load(folder: Path | str, **changes: object) -> Dataset:
    return load_dataset(
        make_tiny_config(**{"data.corpus": str(folder), "split.kind": "files", **changes})
    )


@pytest.mark.core
@given(
    valid=st.sampled_from([word for word, part in PART_WORDS.items() if part == "valid"]),
    frame=st.sampled_from(["{}.txt", "ptb.{}.txt", "a/{}.raw", "wiki-{}_2.tokens", "{}"]),
    change=st.sampled_from([str, str.upper, str.capitalize]),
)
def test_a_set_of_files_is_known_by_its_words(valid: str, frame: str, change: type[str]) -> None:
    paths = [frame.format(change(word)) for word in ("train", valid, "test")]
    (found,) = find_part_files(paths)
    assert found.pattern == frame.format("*")
    assert choose_part_files("spec", paths) == dict(
        zip(("train", "valid", "test"), paths, strict=True)
    )


@pytest.mark.parametrize(
    "paths",
    [
        ["train.txt", "notes.txt"],
        ["valid.txt", "test.txt"],
        ["train.txt", "valid.md"],
        ["a/train.txt", "b/valid.txt"],
        ["training.txt", "testing.txt"],
        ["train2.txt", "test2.txt"],
        ["xtrain.txt", "xtest.txt"],
        ["train_valid.txt", "train_test.txt"],
        ["test_train.py", "train.py", "tests/test_x.py"],
        ["train/a.txt", "train/test.txt"],
    ],
    ids=range(10),
)
def test_other_names_are_no_set(paths: list[str]) -> None:
    assert not find_part_files(paths)


def test_folders_may_be_named_for_parts() -> None:
    (found,) = find_part_files(["d/test/2.txt", "d/train/1.txt", "d/train/0.txt"])
    assert found.pattern == "d/*/" and str(found) == "test/, train/"


def test_parts_are_the_files(folder: Path) -> None:
    dataset = _load(folder)
    assert dataset.corpus.text == "".join(TEXTS.values())
    assert dict(dataset.corpus.part_starts) == {"train": 0, "valid": 120, "test": 160}
    assert list(dataset.parts) == ["train", "valid", "test"]
    for name, text in TEXTS.items():
        targets = "".join(
            dataset.corpus.text[i] for r in dataset.part(name) for i in target_positions(r)
        )
        assert targets == text[1:]  # the first character of a file has nothing before it


def test_no_protocol_reads_across_files(folder: Path) -> None:
    dataset = _load(folder)
    for name, start in dataset.corpus.part_starts.items():
        end = start + len(TEXTS[name])
        for protocol in (Window(7), Stream(), Sliding(7, 0), Sliding(7, 3)):
            part = dataset.part(name, read_before=protocol.read_before)
            positions_N = protocol.positions(part)
            least = start + max(1, protocol.read_before)
            assert least <= positions_N.min() and positions_N.max() < end
        assert len(Sliding(7, 0).positions(dataset.part(name, read_before=7))) == end - start - 7
        with pytest.raises(CharlmError, match=rf"no character of the part '{name}' has that many"):
            dataset.part(name, read_before=end - start)


@pytest.mark.parametrize("name", ["chunks", "crops", "streams"])
def test_training_does_not_leave_its_file(folder: Path, name: str) -> None:
    part = _load(folder).part("train")
    loader = build_loader(name, part=part, sequence_length=8, batch_size=4)
    starts_EB = np.asarray(loader.plan(jnp.zeros(2, jnp.uint32), 0).starts_EB)
    assert starts_EB.max() + 8 < len(TEXTS["train"])


def test_the_test_file_may_be_missing(folder: Path) -> None:
    (folder / "test.txt").unlink()
    assert list(_load(folder).parts) == ["train", "valid"]
    (folder / "valid.txt").rename(folder / "test.txt")
    with pytest.raises(CharlmError, match=r"no validation text: name a file such as valid\.txt"):
        _load(folder)


def test_symbols_are_those_of_all_files_unless_told_otherwise(folder: Path) -> None:
    (folder / "valid.txt").write_text("abz" * 10)
    assert _load(folder).vocabulary.symbols == "abcdz"
    with pytest.raises(CharlmError, match=r"outside the training part has the character 'z'"):
        _load(folder, **{"split.vocabulary": "train"})


def test_the_fingerprint_is_of_texts_and_borders(folder: Path) -> None:
    before = _load(folder).fingerprint
    (folder / "train.txt").rename(folder / "ptb.train.txt")
    (folder / "valid.txt").rename(folder / "ptb.dev.txt")
    (folder / "test.txt").rename(folder / "ptb.test.txt")
    assert _load(folder).fingerprint == before
    (folder / "ptb.train.txt").write_text(TEXTS["train"] + "b")
    (folder / "ptb.dev.txt").write_text(TEXTS["valid"][1:])
    assert _load(folder).corpus.text == "".join(TEXTS.values())
    assert _load(folder).fingerprint != before


def test_files_too_short_are_refused(folder: Path) -> None:
    (folder / "test.txt").write_text("a")
    with pytest.raises(CharlmError, match="a part is too short: 120 train, 39 valid, 0 test"):
        _load(folder)
    with pytest.raises(CharlmError, match="sequence_length=120 needs 121 for training"):
        _load(folder, **{"data.sequence_length": 120})


@pytest.mark.parametrize(
    ("names", "spec", "says"),
    [
        (["README"], "", "README is no part of the text: leave it out with .*/\\*.txt'"),
        (["val.txt"], "", "has two files of the part 'valid'"),
        (["notes.txt"], "", "notes.txt is no part of the text: move it to another folder"),
        (
            ["x.train.txt", "x.test.txt"],
            "",
            "has the parts of 2 texts .*name one, as in .*/x[.]\\*.txt'",
        ),
        ([], "train.txt", "has no such files"),
    ],
)
def test_what_is_not_one_file_for_each_part_is_refused(
    folder: Path, names: list[str], spec: str, says: str
) -> None:
    for name in names:
        (folder / name).write_text("abcd")
    with pytest.raises(CharlmError, match=says):
        _load(folder / spec)


def test_a_registered_corpus_has_no_files() -> None:
    with pytest.raises(CharlmError, match="needs a folder or a glob: synthetic is one text"):
        _load("synthetic")


@pytest.mark.core
def test_joining_the_parts_of_a_text_is_never_silent(folder: Path) -> None:
    def remark(spec: Path | str, kind: str = "tail") -> str | None:
        return refuse_joined_parts(
            make_tiny_config(**{"data.corpus": str(spec), "split.kind": kind})
        )

    with pytest.raises(CharlmError) as caught:
        remark(folder)
    order = "in the order test.txt, train.txt, valid.txt"
    assert order in str(caught.value)
    assert "--config.split.kind=files" in str(caught.value)
    assert f"'{folder}/**'" in str(caught.value)
    assert order in (remark(folder / "**") or "")
    (folder / "valid.txt").rename(folder / "rest.txt")
    with pytest.raises(CharlmError) as caught:
        remark(folder)
    assert "split.kind=files" not in str(caught.value)
    (folder / "rest.txt").rename(folder / "valid.txt")
    for spec, kind in [
        (folder, "files"),
        (folder / "train.txt", "tail"),
        ("synthetic", "tail"),
        (folder / "t*.txt", "files"),
    ]:
        assert remark(spec, kind) is None
    joined = load_dataset(make_tiny_config(**{"data.corpus": str(folder / "**")})).corpus.text
    assert joined == "\n\n".join(TEXTS[name] for name in ("test", "train", "valid"))


def test_a_sweep_remarks_once_that_its_points_join_parts(folder: Path, tmp_path: Path) -> None:
    fields = {**TINY, "data.corpus": folder / "**", "data.sequence_length": 4}
    overrides = [
        f"{name}={','.join(x) if isinstance(x, tuple) else x}" for name, x in fields.items()
    ]
    points = [
        Point(f"seed={seed}", str(ROOT / "configs" / "base.py"), (*overrides, f"seed={seed}"))
        for seed in (1, 2)
    ]
    (remark,) = check_points(points, tmp_path / "sweep")
    assert remark.startswith(f"{folder}/** joins the parts of a text, in the order test.txt, ")


def test_the_order_of_parts_is_that_of_training(folder: Path) -> None:
    stretches = [stretch for (stretch,) in _load(folder).parts.values()]
    assert all(a.stop + 1 == b.start for a, b in itertools.pairwise(stretches))
    assert [size((stretch,)) for stretch in stretches] == [120, 39, 19]
