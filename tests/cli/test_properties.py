"""Whatever a person writes or leaves lying about: a sound value, or an error of one line."""

import codecs
import contextlib
import dataclasses
import encodings.aliases
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm_jax import load_run
from charlm_jax.cli import main
from charlm_jax.config.loading import load_config
from charlm_jax.config.schema import Config, flatten
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.corpora import Corpus, load_corpus
from charlm_jax.data.dataset import load_dataset
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.storage.metrics_log import MetricsLog
from charlm_jax.storage.workdir import Workdir
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import ROOT, examples, make_tiny_config

BASE = str(ROOT / "configs" / "base.py")
FIELDS = sorted(load_config(BASE).flatten())


def _assert_one_line(error: object, given_values: object = "") -> None:
    """It may repeat a line break that stands in what was given; the command escapes it."""
    assert "\\" in repr(given_values) or len(str(error).splitlines()) == 1


@contextlib.contextmanager
def _only_errors_of_one_line(given_values: object = "") -> Iterator[None]:
    """Let a CharlmError pass, and no other."""
    try:
        yield
    except CharlmError as error:
        _assert_one_line(error, given_values)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# What is written on the command line or into a config.

characters = st.characters(exclude_categories=["Cs"])
# A lone surrogate stands for a byte that is not UTF-8, in an argument or the name of a file.
lone = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)
any_character = st.one_of(characters, characters, lone)
any_text = st.lists(any_character, max_size=20).map("".join)

# Texts that look like a value, and any other.
texts = st.one_of(
    st.sampled_from(["", "0", "-1", "1", "7", "1e400", "-inf", "nan", "1e-400", "٣", "1_0", " 2 "]),
    st.sampled_from(
        ["a\nb", "true", "FALSE", "None", "()", "[lstm]", "lstm,gru", "'gru',", "tail", "none"]
    ),
    st.integers().map(str),
    st.integers(4000, 5000).map(lambda digits: "9" * digits),
    st.floats().map(str),
    any_text,
)

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), any_text)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _assert_sound(config: Config) -> None:
    """Every field has its declared type, and the config survives JSON and pasting."""

    def check(section: Any) -> None:
        for name, hint in typing.get_type_hints(type(section)).items():
            value = getattr(section, name)
            if dataclasses.is_dataclass(hint):
                check(value)
            elif hint == tuple[str, ...]:
                assert type(value) is tuple and all(type(item) is str for item in value)
            else:
                assert type(value) is hint
            assert not isinstance(value, float) or math.isfinite(value)

    check(config)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    if all(re.fullmatch(r"\w+", layer) for layer in config.model.layers):
        pasted = [f"{field}={value}" for field, value in config.flatten().items()]
        assert load_config(BASE, pasted) == config


@pytest.mark.core
@given(st.sampled_from(FIELDS), texts)
def test_any_text_for_any_field(field: str, text: str) -> None:
    with _only_errors_of_one_line():
        _assert_sound(load_config(BASE, [f"{field}={text}"]))


@given(st.sampled_from(FIELDS), values)
def test_any_value_for_any_field(field: str, value: object) -> None:
    with _only_errors_of_one_line():
        _assert_sound(load_config(BASE, {field: value}))


@given(st.lists(st.tuples(st.sampled_from(FIELDS), texts), min_size=2, max_size=6))
def test_several_texts_are_sound_together_or_refused(pairs: list[tuple[str, str]]) -> None:
    with _only_errors_of_one_line():
        _assert_sound(load_config(BASE, [f"{field}={text}" for field, text in pairs]))


@given(any_text, texts)
def test_any_text_in_place_of_a_field(field: str, text: str) -> None:
    for override in (field, f"{field}={text}", f"data.{field}={text}", f"{field}.seed={text}"):
        if override.partition("=")[0] in FIELDS and "=" in override:
            continue
        with pytest.raises(CharlmError) as caught:
            load_config(BASE, [override])
        _assert_one_line(caught.value, field)


@given(
    st.sampled_from([["sample", "--workdir=nowhere"], ["verify", "--workdir=nowhere"]]), st.data()
)
def test_any_words_behind_a_command(command: list[str], data: st.DataObject) -> None:
    flags = [
        "--prompt=",
        "--prompt_file=",
        "--stop=",
        "--layout=",
        "--interactive",
        "--chars=",
        "--scale=",
        "--top_k=",
        "--top_p=",
        "--checkpoint=",
        "--config.",
        "--steps=",
        "--",
        "-",
    ]
    word = st.tuples(st.sampled_from([*flags, ""]), texts).map("".join)
    words = data.draw(st.lists(word.filter(lambda text: text not in ("-h", "--help")), max_size=4))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = main([*command, *words])
        except SystemExit as stop:
            status = stop.code
    assert (status, out.getvalue(), len(err.getvalue().splitlines())) == (2, "", 1)


def _changed(values: Mapping[str, Any], place: list[str], value: object) -> dict[str, Any]:
    """A copy of nested values with another value at a place, which may be new."""
    name, *rest = place
    inner = values.get(name)
    new = _changed(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value
    return {**values, name: new}


@given(st.one_of(values, st.tuples(st.sampled_from([*FIELDS, "data", "x", "data.x"]), values)))
def test_a_config_from_any_values(given_values: Any) -> None:
    if isinstance(given_values, tuple):
        field, value = given_values
        given_values = _changed(load_config(BASE).to_dict(), field.split("."), value)
    with _only_errors_of_one_line(given_values):
        _assert_sound(Config.from_dict(given_values))


ILL_FITTING = [
    *(None, False, True, 0, 1, -1, 2, 2**31, 10**400, 0.0, 0.5, 1.0, -math.inf, math.inf, math.nan),
    *("", "1", "x", [], ["lstm"], [1], [["lstm"]], ("gru",), [{}], {}, {"a": 1}, {".": 1}),
]


@pytest.mark.parametrize("field", FIELDS)
def test_a_config_of_ill_fitting_values(field: str) -> None:
    whole = load_config(BASE).to_dict()
    for value in ILL_FITTING:
        with _only_errors_of_one_line():
            _assert_sound(Config.from_dict(_changed(whole, field.split("."), value)))
        with _only_errors_of_one_line():
            _assert_sound(load_config(BASE, {field: value}))


@given(st.sampled_from(FIELDS))
def test_a_config_that_lacks_any_field_is_refused_by_name(field: str) -> None:
    *sections, name = field.split(".")
    nested = load_config(BASE).to_dict()
    section: dict[str, Any] = nested
    for part in sections:
        section = section[part]
    del section[name]
    with pytest.raises(CharlmError, match=rf"^config\.{re.escape(field)} is missing"):
        Config.from_dict(nested)
    assert field not in dict(flatten(nested))


# What lies on the disk as a text.

CODECS = sorted(
    {*encodings.aliases.aliases.values(), "idna", "punycode", "unicode_escape", "undefined"}
)

# Of every kind that has ever been dropped or changed somewhere.
unusual = st.sampled_from(
    [
        *("\r", "\n", "\r\n", "\n\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"),
        *("\ufeff", "\ufffe", "e\u0301", "\u05e9\u05dc", "\u202e", "\u200f", "\U0010ffff"),
        "👩\u200d🚀",
    ]
)
written = st.lists(unusual | characters, max_size=30).map("".join)


def _as_read(text: str) -> str:
    """The rule: a mark at the very beginning goes, and every newline becomes one character."""
    without_mark = text[1:] if text[:1] == "\ufeff" else text
    return "\n".join(re.split("\r\n|\r|\n", without_mark))


def _expected(contents: list[bytes], encoding: str) -> str | None:
    """What files give together by the rules; None where they are not text."""
    try:
        "a".encode(encoding)  # other codecs, from bytes to bytes, are refused here
        texts_read = [text for data in contents if (text := _as_read(data.decode(encoding)))]
        "".join(texts_read).encode()  # a lone surrogate is refused here
    except (LookupError, ValueError):
        return None
    ends = [1 if text.endswith("\n") else 2 for text in texts_read[:-1]]
    return "".join(text + "\n" * end for text, end in zip(texts_read, [*ends, 0], strict=False))


MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def _may_be_refused(data: bytes) -> bool:
    """Some bytes that are text here are taken for that of another encoding."""
    return data.count(0) >= 4 or data.startswith(MARKS)


def _assert_read(spec: Path, encoding: str, expected: str | None) -> None:
    if expected:
        files = [spec] if spec.is_file() else spec.iterdir()
        try:
            corpus = load_corpus(str(spec), encoding=encoding)
        except CharlmError as error:
            assert "looks like utf-" in str(error)
            assert any(_may_be_refused(file.read_bytes()) for file in files)
        else:
            assert isinstance(corpus, Corpus) and corpus.text == expected
        return
    with pytest.raises(CharlmError) as caught:
        load_corpus(str(spec), encoding=encoding)
    _assert_one_line(caught.value)


@pytest.mark.core
@given(written)
def test_no_character_of_a_file_is_lost(folder: Path, text: str) -> None:
    file = folder / "text.txt"
    file.write_bytes(text.encode())
    _assert_read(file, "utf-8", _as_read(text))
    if read := _as_read(text):
        vocabulary = Vocabulary.from_text(read)
        assert vocabulary.decode(vocabulary.encode(read)) == read


@given(written, st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32-be", "utf-7", "gb18030"]))
def test_a_text_reads_the_same_in_every_encoding(folder: Path, text: str, encoding: str) -> None:
    file = folder / "text.txt"
    file.write_bytes(text.encode(encoding))
    _assert_read(file, encoding, _as_read(text))


@example(b"+3AA-", "utf-7")  # lone surrogates
@example(b"a\\ud800", "unicode_escape")
@given(st.binary(max_size=200), st.sampled_from(CODECS) | any_text)
@examples(4)
def test_any_bytes_in_any_encoding(folder: Path, data: bytes, encoding: str) -> None:
    file = folder / "text.txt"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unicode_escape on escapes that mean nothing
        _assert_read(file, encoding, _expected([data], encoding))


@given(st.lists(st.binary(max_size=20) | written.map(str.encode), min_size=1, max_size=5))
def test_a_folder_is_its_files_with_a_blank_line_between(
    folder: Path, contents: list[bytes]
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for number, data in enumerate(contents):
            Path(name, str(number)).write_bytes(data)
        _assert_read(Path(name), "utf-8", _expected(contents, "utf-8"))


# Symbols.

many = st.integers(250, 260).map(lambda count: "".join(map(chr, range(count))))


@pytest.mark.core
@example("".join(map(chr, range(256))))
@example("".join(map(chr, range(257))))
@given(written.filter(bool) | many)
def test_a_vocabulary_is_sorted_small_and_undoes_itself(text: str) -> None:
    vocabulary = Vocabulary.from_text(text)
    ids_N = vocabulary.encode(text)
    assert list(vocabulary.symbols) == sorted(set(text))
    assert [vocabulary.symbols[number] for number in ids_N] == list(text)
    assert vocabulary.decode(ids_N) == text
    assert ids_N.dtype == vocabulary.dtype
    assert ids_N.dtype == (np.uint8 if len(vocabulary) <= 256 else np.uint16)


@example("aa")
@given(any_text | any_text.map(sorted).map("".join))
def test_symbols_are_a_vocabulary_if_and_only_if_they_are_sorted_and_distinct(symbols: str) -> None:
    if symbols and list(symbols) == sorted(set(symbols)):
        assert len(Vocabulary(symbols)) == len(symbols)
        return
    with pytest.raises(CharlmError):
        Vocabulary(symbols)


@example("abc", "a?", "replace", "ab")
@example("abc", "a\udc80", "error", "")
@given(written.filter(bool), any_text, st.sampled_from(["error", "drop", "replace"]), any_text)
def test_every_policy_for_unknown_characters(
    known: str, text: str, unknown: str, replacement: str
) -> None:
    vocabulary = Vocabulary.from_text(known)
    lacks = [character for character in text if character not in known]
    cannot = {
        "error": True,
        "drop": False,
        "replace": len(replacement) != 1 or replacement not in known,
    }
    if lacks and cannot[unknown]:
        with pytest.raises(CharlmError) as caught:
            vocabulary.encode(text, unknown=unknown, replacement=replacement)
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        assert unknown == "replace" or f"U+{ord(min(lacks)):04X}" in message
        return
    mark = {"drop": "", "replace": replacement, "error": ""}[unknown]
    expected = "".join(character if character in known else mark for character in text)
    assert (
        vocabulary.decode(vocabulary.encode(text, unknown=unknown, replacement=replacement))
        == expected
    )


# What a run has written, after somebody or something has been at it.

rows = st.fixed_dictionaries(
    {
        "step": st.integers(1, 9),
        "epoch": st.integers(1, 9),
        "split": st.sampled_from(["train", "valid"]),
        "scope": st.sampled_from(["step", "epoch"]),
        "weights": st.sampled_from(["raw", "average"]),
        "state_hash": st.text("0123456789abcdef", max_size=16),
        "loss_nats": st.floats(0, 10),
        "bits_per_char": st.floats(0, 10),
        "learning_rate": st.floats(0, 1),
        "chars_per_second": st.floats(0, 1e6),
        "seconds": st.floats(0, 1e6),
    }
)
changed_rows = st.builds(
    lambda row, name, value: {**row, name: value},
    rows,
    st.sampled_from(["step", "split", "weights", "loss_nats", "state_hash"]),
    leaves,
)
lines = st.one_of(
    values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20),
    st.integers(1000, 200_000).map(lambda depth: b"[" * depth),
)
books = st.one_of(
    *[
        st.lists(row.map(lambda fields: json.dumps(fields).encode()), max_size=5).map(b"\n".join)
        for row in (rows, changed_rows, rows | changed_rows)
    ],
    st.lists(lines, max_size=3).map(b"\n".join),
)


@given(books, st.booleans(), st.integers(0, 9))
@examples(3)
def test_metrics_of_any_bytes(folder: Path, data: bytes, ends: bool, step: int) -> None:
    data += b"\n" * ends
    file = folder / "metrics.jsonl"
    file.write_bytes(data)
    book = MetricsLog(file)
    try:
        rows = book.rows()
    except CharlmError as error:
        assert len(str(error).splitlines()) == 1 and "line" in str(error)
        with pytest.raises(CharlmError):
            book.truncate_after(step)
        assert file.read_bytes() == data
        return
    for fields in rows:
        assert type(fields["step"]) is int and type(fields["loss_nats"]) in (int, float)
        assert type(fields["split"]) is str and type(fields["state_hash"]) is str
    assert len(rows) == data.count(b"\n")
    book.truncate_after(step)
    kept = [fields for fields in rows if fields["step"] <= step]
    assert repr(book.rows()) == repr(kept)  # NaN is not equal to itself
    assert len(file.read_bytes().splitlines()) == len(kept)


READERS: Mapping[str, tuple[str, Callable[[Workdir], object]]] = {
    "config": ("config.json", Workdir.read_config),
    "vocabulary": ("vocabulary.json", Workdir.read_vocabulary),
    "fingerprint": ("vocabulary.json", Workdir.read_fingerprint),
    "facts": ("run.json", Workdir.read_facts),
}
SOUND: Mapping[str, Mapping[str, Any]] = {
    "config.json": load_config(BASE).to_dict(),
    "vocabulary.json": {"symbols": "abc", "fingerprint": "0"},
    "run.json": {
        "corpus": "synthetic",
        "parameters": 3,
        "steps_per_epoch": 4,
        "total_steps": 8,
        "started_from": None,
        "finished": "done",
        "sessions": [{"from_step": 0, "environment": {"python": "3"}}],
    },
}


def _read(folder: Path, reader: str, content: bytes) -> None:
    """What a file gives is what the commands take for granted, and the file stays as it is."""
    name, read = READERS[reader]
    workdir = Workdir(folder / "run")
    workdir.path.mkdir(exist_ok=True)
    (workdir.path / "config.json").write_text("{}")  # what makes a folder a run
    (workdir.path / name).write_bytes(content)
    with _only_errors_of_one_line(content):
        result = read(workdir)
        if isinstance(result, Config):
            _assert_sound(result)
        elif isinstance(result, Vocabulary):
            assert result.symbols
        elif reader == "fingerprint":
            assert isinstance(result, str)
        else:
            _assert_facts(result)
    assert (workdir.path / name).read_bytes() == content


@pytest.mark.parametrize("reader", READERS)
@given(st.data())
def test_files_of_a_run_that_hold_anything(folder: Path, reader: str, data: st.DataObject) -> None:
    sound = SOUND[READERS[reader][0]]
    changed = st.builds(
        lambda field, value: json.dumps(_changed(sound, field.split("."), value)).encode(),
        st.sampled_from([field for field, _ in flatten(sound)]),
        values,
    )
    content = data.draw(
        changed
        | st.one_of(
            values.map(lambda value: json.dumps(value).encode()),
            st.integers(0, 200).map(lambda length: json.dumps(sound).encode()[:length]),
            st.binary(max_size=20),
            st.just(b"[" * 100_000),
            st.just(codecs.BOM_UTF8 + json.dumps(sound).encode()),
        )
    )
    _read(folder, reader, content)


@pytest.mark.parametrize("reader", READERS)
def test_files_of_a_run_with_ill_fitting_values(folder: Path, reader: str) -> None:
    sound = SOUND[READERS[reader][0]]
    for field in [*sound, *(field for field, _ in flatten(sound))]:
        for value in ILL_FITTING:
            content = json.dumps(_changed(sound, field.split("."), value)).encode()
            _read(folder, reader, content)


def _assert_facts(facts: Any) -> None:
    """What the commands take for granted."""
    numbers = [facts.get(name) for name in ("parameters", "total_steps", "steps_per_epoch")]
    assert all(number is None or isinstance(number, int) for number in numbers)
    assert isinstance(facts.get("finished"), (str, type(None)))
    assert all(isinstance(s["environment"], dict) for s in facts.get("sessions") or [])


# Size.

LONG_LINE = """
import resource, sys
# The system refuses more; what a process used at most counts its parent's on Linux.
resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, resource.RLIM_INFINITY))
from charlm_jax.data.corpora import load_corpus
corpus = load_corpus(sys.argv[1])
ids_N = corpus.text.ids_N
print(corpus.characters, len(corpus.text.symbols), ids_N.dtype, len(ids_N), ids_N[-1])
"""


@pytest.mark.exhaustive
def test_a_line_of_50_megabytes_loads_and_encodes(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_bytes(b"abcdefghij" * 5_000_000 + "é".encode())
    command = [sys.executable, "-c", LONG_LINE, str(file)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["50000001", "11", "uint8", "50000001", "10"]


@pytest.mark.exhaustive
def test_a_text_of_60_000_symbols_trains(tmp_path: Path) -> None:
    points = [*range(0x100, 0xD800), *range(0xE000, 0xF000), *range(0x10000, 0x110000)]
    symbols = "".join(map(chr, points[:60_000]))
    file = tmp_path / "symbols.txt"
    file.write_text(symbols * 2, encoding="utf-8")
    config = make_tiny_config(
        **{
            "data.corpus": str(file),
            "data.sequence_length": 4,
            "data.batch_size": 2,
            "model.embedding_size": 3,
            "model.hidden_size": 4,
            "split.kind": "none",
            "train.max_steps": 1,
        }
    )
    dataset = load_dataset(config)
    assert (len(dataset.vocabulary), dataset.ids_N.dtype) == (60_000, np.uint16)
    assert dataset.vocabulary.decode(dataset.ids_N) == symbols * 2
    assert train_and_evaluate(config, tmp_path / "run").step == 1
    run = load_run(tmp_path / "run")
    assert len(run.generate(symbols[-1], characters=3)) == 3
