"""Names of default folders: the last one is of one text alone, in whichever folder it is typed."""

import itertools
import os
from pathlib import Path

import pytest

from charlm_jax.config.loading import default_names


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two texts of one name, two globs, and a text and a folder with brackets."""
    monkeypatch.chdir(tmp_path)
    files = ["a/input.txt", "b/input.txt", "[v1] a.txt", "c/[v1]/a.txt"]
    for file in files:
        Path(file).parent.mkdir(exist_ok=True, parents=True)
        Path(file).write_text("text")
    return [*files, "a/*.txt", "b/*.txt", "**/*.txt", "c/[v1]", "a", "b"]


def test_no_two_texts_have_all_names_in_common(texts: list[str]) -> None:
    lasts = [default_names(f"my_text:{text}").names[-1] for text in texts]
    for one, other in itertools.combinations(lasts, 2):
        assert one != other
    for text in texts:
        for name in default_names(f"my_text:{text}").names:
            assert name.startswith("my_text") and not set(name) & set("/[]*. ")


def test_a_text_has_the_same_last_name_from_every_folder(
    texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [default_names(f"my_text:{text}").names for text in texts]
    monkeypatch.chdir("c")
    for text, names in zip(texts, here, strict=True):
        there = default_names(f"my_text:{os.path.join('..', text)}").names
        assert there[-1].rpartition("-")[2] == names[-1].rpartition("-")[2]
