"""Texts that are not held in memory: the same as others, and their files in the cache."""

import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data import corpora, large_text, text_cache, text_pieces
from charlm_jax.data.corpora import Corpus, load_corpus, load_part_files
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.large_text import LargeText
from tests.conftest import make_tiny_config

TEXT = "Дом noé,\r\n日本 \U0001f40d!\n" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of texts in an empty cache; every text is taken for a large one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "MOST_HELD", -1)
    monkeypatch.setattr(text_pieces, "_PIECE", 7)
    monkeypatch.setattr(large_text, "_PIECE", 5)
    monkeypatch.setattr(text_cache, "_SETTLED_SECONDS", -1e9)
    monkeypatch.setattr(text_cache, "_checked", set())
    return tmp_path / "cache" / "charlm_jax" / "texts"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    return path


def _held(load: Any, *args: Any, **how: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "MOST_HELD", 1 << 25)
        return load(*args, **how)


def _files(cache: Path, ending: str) -> list[Path]:
    return sorted(cache.glob(f"*{ending}"))


def _no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "read_facts", lambda source: pytest.fail("the text was read"))


def _assert_same(large: Corpus, held: Corpus) -> None:
    assert isinstance(large.text, LargeText) and isinstance(held.text, str)
    assert large.text[:] == held.text and len(large.text) == len(held.text)
    assert large.symbols == held.symbols and large.part_starts == held.part_starts
    for field in ("name", "source", "sha256", "text_sha256", "left_out", "unit"):
        assert getattr(large, field) == getattr(held, field)


@pytest.mark.parametrize(
    ("how", "contents"),
    [
        ({}, {"a": TEXT.encode()}),
        ({"encoding": "utf-16"}, {"a": TEXT.encode("utf-16")}),
        ({}, {"a": b"\xef\xbb\xbfab", "b": b"", "c": b"\xef\xbb\xbf", "d": b"cd\r\n", "e": b"f"}),
        ({"unit": "bytes"}, {"a": b"\xff1\r\n", "b": b"", "c": bytes(range(256))}),
    ],
)
def test_a_large_text_is_the_one_that_a_small_one_would_be(
    cache: Path, tmp_path: Path, how: dict[str, str], contents: dict[str, bytes]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    spec = str(folder)
    for _ in range(2):  # new, and from the cache
        _assert_same(load_corpus(spec, **how), _held(load_corpus, spec, **how))
    assert len(_files(cache, ".ids")) == len(_files(cache, ".json")) == 1
    assert not _files(cache, ".partial")


def test_files_of_parts_are_kept_apart(cache: Path, tmp_path: Path) -> None:
    for name, text in {"train": "ab\n" * 20, "valid": "ba\n" * 9}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    spec = str(tmp_path / "*.txt")
    _assert_same(load_part_files(spec), _held(load_part_files, spec))
    _assert_same(load_corpus(spec), _held(load_corpus, spec))  # joined: another text
    assert len(_files(cache, ".json")) == len(_files(cache, ".ids")) == 2


def test_fingerprints_ids_and_parts_are_those_of_a_small_text(cache: Path, path: Path) -> None:
    for changes in ({}, {"split.vocabulary": "train"}, {"split.kind": "interleaved"}):
        config = make_tiny_config(**{"data.corpus": str(path), "split.guard": 5, **changes})
        large, held = load_dataset(config), _held(load_dataset, config)
        assert large.fingerprint == held.fingerprint and large.parts == held.parts
        assert large.ids_N.dtype == held.ids_N.dtype and isinstance(large.ids_N, np.memmap)
        np.testing.assert_array_equal(large.ids_N, held.ids_N)
    path.write_text("\0" + TEXT, encoding="utf-8")
    config = make_tiny_config(**{"data.corpus": str(path), "split.vocabulary": "train"})
    assert load_dataset(config).fingerprint == _held(load_dataset, config).fingerprint
    path.write_text(TEXT + "\n" + "zß", encoding="utf-8")
    config = make_tiny_config(**{"data.corpus": str(path), "split.vocabulary": "train"})
    with pytest.raises(CharlmError, match=r"outside the training part has .*'z'.*'ß'") as large_one:
        load_dataset(config)
    with pytest.raises(CharlmError) as held_one:
        _held(load_dataset, config)
    assert str(large_one.value) == str(held_one.value)


def test_more_symbols_than_a_byte_holds(cache: Path, tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 2 + "ab" * 50
    (tmp_path / "t").write_text(text, encoding="utf-8")
    corpus = load_corpus(str(tmp_path / "t"))
    assert isinstance(corpus.text, LargeText) and corpus.text.ids_N.dtype == np.uint16
    assert corpus.text[:] == text


def test_slices_and_searches_are_those_of_a_string(cache: Path, path: Path) -> None:
    large, held = load_corpus(str(path)).text, _held(load_corpus, str(path)).text
    assert isinstance(large, LargeText)
    assert (large[3], large[-1], large[2:9], large[9:2]) == (held[3], held[-1], held[2:9], "")
    for sought in ("\n", "日本", "x"):
        assert large.find(sought, 10, 60) == held.find(sought, 10, 60)
        assert large.rfind(sought, 10, 60) == held.rfind(sought, 10, 60)


def test_an_unchanged_text_is_not_read_again(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_corpus(str(path))
    _no_reading(monkeypatch)
    monkeypatch.chdir(path.parent)
    again = load_corpus(path.name)
    assert again.text[:] == first.text[:] and again.sha256 == first.sha256


def test_a_text_that_was_just_written_is_read_again(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the resolution of the file system's times would not be seen."""
    monkeypatch.setattr(text_cache, "_SETTLED_SECONDS", 1e9)
    load_corpus(str(path))
    assert _files(cache, ".ids") and not _files(cache, ".json")
    read, read_facts = [], text_cache.read_facts
    monkeypatch.setattr(text_cache, "read_facts", lambda x: read.append(x) or read_facts(x))
    load_corpus(str(path))
    assert len(read) == 1


def test_a_changed_text_of_the_same_size_and_time_is_read_again(cache: Path, path: Path) -> None:
    first, before = load_corpus(str(path)), path.stat()
    path.write_bytes(path.read_bytes().replace(b"!", b"?"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert load_corpus(str(path)).text[:] == first.text[:].replace("!", "?")


def test_a_moved_text_is_found_by_its_content(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_corpus(str(path))
    moved = path.rename(path.with_name("moved.txt"))
    monkeypatch.setattr(text_cache, "_build", lambda *args: pytest.fail("the text was encoded"))
    _assert_same(load_corpus(str(moved)), _held(load_corpus, str(moved)))


def _flip(data: bytearray, place: int) -> bytearray:
    data[place] ^= 1
    return data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: _flip(data, -1),
        lambda data: _flip(data, data.index(b"\n") + 1),
        lambda data: _flip(data, 3),
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: b"[]\n" + data,
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
    ],
    ids=["last", "first", "line", "short", "long", "empty", "before", "format"],
)
def test_a_damaged_file_of_ids_is_written_again(
    cache: Path, path: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    wanted = load_corpus(str(path)).text[:]
    (file,) = _files(cache, ".ids")
    data = file.read_bytes()
    file.write_bytes(damage(bytearray(data)))
    assert load_corpus(str(path)).text[:] == wanted
    assert file.read_bytes() == data and caplog.text.count("was damaged") == 1


@pytest.mark.parametrize("record", [b"", b"[]", b'{"format": 1}', b'{"format": 1, "files": []}'])
def test_a_damaged_record_is_written_again(cache: Path, path: Path, record: bytes) -> None:
    wanted = load_corpus(str(path)).text[:]
    (file,) = _files(cache, ".json")
    good = json.loads(file.read_bytes())
    file.write_bytes(record)
    assert load_corpus(str(path)).text[:] == wanted
    assert json.loads(file.read_bytes()) == good


def test_a_text_without_a_cache_is_held_in_memory(
    cache: Path, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _held(load_corpus, str(path))
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    _assert_same(load_corpus(str(path)), wanted)
    assert "is not kept for the next start: " in caplog.text
    cache.unlink()
    caplog.clear()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with caplog.at_level(logging.WARNING):
        _assert_same(load_corpus(str(path)), wanted)
    assert "(No space left on device): the ids are held in memory" in caplog.text
    assert not _files(cache, ".ids") and not _files(cache, ".partial")


def test_a_file_system_that_reserves_no_space_has_a_cache_too(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    _assert_same(load_corpus(str(path)), _held(load_corpus, str(path)))
    assert _files(cache, ".ids")


def test_a_text_that_changes_while_it_is_read_is_an_error(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_facts = text_cache.read_facts

    def change(source: Any) -> Any:
        facts = read_facts(source)
        path.write_bytes(path.read_bytes().replace(b"!", b"?"))
        return facts

    monkeypatch.setattr(text_cache, "read_facts", change)
    with pytest.raises(CharlmError, match=r"text\.txt was changed while it was read"):
        load_corpus(str(path))
    assert not _files(cache, ".ids") and not _files(cache, ".json")


def test_writers_of_one_text_do_not_disturb_each_other(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writes all of it while the first is in the middle."""
    encoded, others = text_cache._encoded, []

    def interrupted(source: Any, facts: Any) -> Iterator[np.ndarray]:
        for number, ids_N in enumerate(encoded(source, facts)):
            if number == 3 and not others:
                others.append(None)
                others.append(load_corpus(str(path)))
            yield ids_N

    monkeypatch.setattr(text_cache, "_encoded", interrupted)
    first = load_corpus(str(path))
    assert first.text[:] == others[1].text[:] == _held(load_corpus, str(path)).text
    assert len(_files(cache, "")) == 2


def test_errors_of_large_texts_are_those_of_small_ones(
    cache: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding, data, where in (
        ("utf-8", b"a" * 50 + b"\xff" + b"a" * 50, "offset 50;"),
        ("raw_unicode_escape", b"a" * 50 + b"\\ud800" + b"a" * 50, "at character 50,"),
    ):
        path.write_bytes(data)
        with pytest.raises(CharlmError) as large:
            load_corpus(str(path), encoding=encoding)
        with pytest.raises(CharlmError) as held:
            _held(load_corpus, str(path), encoding=encoding)
        assert str(large.value) == str(held.value) and where in str(held.value)
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(CharlmError, match=r"text\.txt' is empty: it has no characters"):
        load_corpus(str(path))
    path.write_bytes(b"a" * 50)
    monkeypatch.setattr(text_pieces, "MAX_INT32", 49)
    with pytest.raises(CharlmError, match=r"text\.txt: the text has more than 49 characters"):
        load_corpus(str(path))


def test_memory_does_not_grow_with_the_text(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No piece that is read, decoded or encoded is longer than the piece of a file."""
    import tracemalloc

    monkeypatch.setattr(text_pieces, "_PIECE", 1 << 14)

    def peak(characters: int) -> int:
        path = tmp_path / f"{characters}.txt"
        path.write_bytes(b"ab c\n" * (characters // 5))
        tracemalloc.start()
        load_corpus(str(path))
        load_corpus(str(path))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    monkeypatch.setattr(text_cache, "_PIECE", 1 << 14)
    peak(1000)
    assert peak(4_000_000) < peak(400_000) + 100_000
