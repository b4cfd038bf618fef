import email.message
import hashlib
import io
import logging
import os
import threading
import urllib.request
import urllib.response
from pathlib import Path

import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.data import download
from charlm_jax.data.download import PinnedFile, cache_folder, obtain, state_of

CONTENT = bytes(range(256)) * 1_000
FILE = PinnedFile(
    name="book.txt",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    urls=("https://first.example/book.txt", "https://second.example/book.txt"),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CHARLM_CORPORA", raising=False)


class Response(io.BytesIO):
    def __init__(self, body, length=None):
        super().__init__(body)
        self.headers = {} if length is None else {"Content-Length": str(length)}


@pytest.fixture
def serve(monkeypatch):
    """Has the addresses, in order, give these answers; returns the addresses asked."""

    def set_up(*answers):
        asked, rest = [], list(answers)

        def open_https(url):
            asked.append(url)
            answer = rest.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer if isinstance(answer, Response) else Response(answer, len(answer))

        monkeypatch.setattr(download, "open_https", open_https)
        return asked

    return set_up


def cached_names():
    return sorted(os.listdir(cache_folder())) if cache_folder().exists() else []


def message_of(file=FILE):
    with pytest.raises(CharlmError) as caught:
        obtain(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_download_is_reported_kept_and_then_read_from_the_cache(serve):
    asked, reports = serve(CONTENT), []
    data, source = obtain(FILE, progress=lambda *report: reports.append(report))
    assert data == CONTENT
    assert asked == [FILE.urls[0]]
    assert FILE.urls[0] in source
    assert reports == sorted(reports)
    assert reports[-1] == (FILE.size, FILE.size)
    assert cached_names() == ["book.txt"]

    serve()
    assert obtain(FILE) == (CONTENT, str(cache_folder() / "book.txt"))


@pytest.mark.parametrize(
    "broken",
    [
        OSError("Network is unreachable"),
        urllib.error.HTTPError(FILE.urls[0], 404, "Not Found", email.message.Message(), None),
        TimeoutError("timed out"),
        CONTENT + b"!",
        CONTENT[:-1],
        b"!" + CONTENT[1:],
        Response(CONTENT[:-1], len(CONTENT)),
    ],
    ids=["offline", "404", "timeout", "longer", "shorter", "other", "cut off"],
)
def test_the_second_address_is_used_where_the_first_fails(serve, broken):
    asked = serve(broken, CONTENT)
    assert obtain(FILE)[0] == CONTENT
    assert asked == list(FILE.urls)
    assert cached_names() == ["book.txt"]


def test_an_oversized_answer_is_not_read_to_its_end(serve):
    oversized = Response(CONTENT * 50)
    received = []
    read1 = oversized.read1
    oversized.read1 = lambda size: received.append(piece := read1(size)) or piece
    serve(oversized, CONTENT)
    assert obtain(FILE)[0] == CONTENT
    assert FILE.size < sum(map(len, received)) <= FILE.size + download.CHUNK_BYTES
    assert oversized.closed


def test_an_answer_that_drips_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(download, "LIMIT_SECONDS", -1)
    serve(CONTENT, CONTENT)
    assert "bytes in -1 seconds" in message_of()


def test_another_edition_is_named_as_such_and_never_kept(serve):
    other = b"a newer edition"
    serve(other, CONTENT + b"longer")
    message = message_of()
    assert "first.example: serves another edition, sha256" in message
    assert hashlib.sha256(other).hexdigest() in message
    assert "second.example: serves another edition, longer than 256,000 bytes" in message
    assert "to train on another edition, save it and pass its path" in message
    assert cached_names() == []


def test_offline_one_line_says_what_was_tried_and_what_to_do(serve):
    unknown = urllib.error.URLError(OSError(-2, "Name or service not known"))
    serve(unknown, urllib.error.HTTPError("", 503, "Busy", email.message.Message(), None))
    message = message_of()
    assert "first.example: Name or service not known; second.example: HTTP 503" in message
    assert "CHARLM_CORPORA" in message
    assert "--config.data.corpus" in message
    assert "edition" not in message


def test_a_host_that_fails_twice_alike_is_named_once(serve):
    serve(OSError("no route"), OSError("no route"))
    twice = PinnedFile("b", 1, "0", ("https://a.example/1", "https://a.example/2"))
    assert message_of(twice).count("a.example") == 1


def test_a_truncated_answer_is_told_from_another_edition(serve):
    serve(Response(CONTENT[:1_000], len(CONTENT)), OSError("no route"))
    assert "cut off after 1,000 of 256,000 bytes" in message_of()


def interrupt(*_args):
    raise KeyboardInterrupt


class InterruptedFile:
    def __init__(self, handle, _mode):
        self.handle = handle

    def __enter__(self):
        os.write(self.handle, CONTENT[:1_000])
        raise KeyboardInterrupt

    def __exit__(self, *_exception):
        pass

    def __del__(self):
        os.close(self.handle)


@pytest.mark.parametrize("moment", ["receiving", "writing", "putting in place"])
def test_an_interrupted_download_leaves_nothing_behind(serve, monkeypatch, moment):
    serve(CONTENT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "writing":
            patch.setattr(os, "fdopen", InterruptedFile)
        if moment == "putting in place":
            patch.setattr(os, "replace", interrupt)
        obtain(FILE, progress=interrupt if moment == "receiving" else None)
    assert cached_names() == []


def test_a_damaged_cached_file_is_set_aside_and_downloaded_again(serve, caplog):
    cache_folder().mkdir(parents=True)
    cached = cache_folder() / "book.txt"
    cached.write_bytes(b"!" + CONTENT[1:])
    serve(CONTENT)
    with caplog.at_level(logging.WARNING):
        assert obtain(FILE)[0] == CONTENT
    assert "book.txt was damaged" in caplog.text
    assert cached.read_bytes() == CONTENT
    assert (cache_folder() / "book.txt.damaged").read_bytes() == b"!" + CONTENT[1:]


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(serve, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    serve(CONTENT)
    data, source = obtain(FILE)
    assert (data, source) == (CONTENT, FILE.urls[0])
    assert "was not kept in the cache: Not a directory" in caplog.text


def test_the_users_folder_is_looked_in_first_and_checked(serve, tmp_path, monkeypatch):
    serve()
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path))
    own = tmp_path / "book.txt"
    own.write_bytes(CONTENT)
    assert obtain(FILE) == (CONTENT, str(own))
    own.write_bytes(b"another edition")
    message = message_of()
    assert str(own) in message
    assert FILE.sha256 in message
    assert own.read_bytes() == b"another edition"


def test_a_users_folder_without_the_file_leads_on_and_a_missing_one_is_an_error(
    serve, tmp_path, monkeypatch
):
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path))
    serve(CONTENT)
    assert obtain(FILE)[0] == CONTENT
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path / "nowhere"))
    assert "nowhere' is not a folder" in message_of()


def test_concurrent_downloads_leave_one_whole_file(monkeypatch):
    barrier = threading.Barrier(4)

    def open_https(url):
        barrier.wait(timeout=10)
        return Response(CONTENT)

    monkeypatch.setattr(download, "open_https", open_https)
    results = []
    threads = [threading.Thread(target=lambda: results.append(obtain(FILE)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 4
    assert cached_names() == ["book.txt"]
    assert (cache_folder() / "book.txt").read_bytes() == CONTENT


class Redirects(urllib.request.HTTPSHandler):
    """Answers one https address with a redirect, and any other with the content."""

    def __init__(self, target):
        super().__init__()
        self.target, self.asked = target, []

    def https_open(self, request):
        self.asked.append(request.full_url)
        headers = email.message.Message()
        first = len(self.asked) == 1
        if first:
            headers["Location"] = self.target
        code = 302 if first else 200
        answer = urllib.response.addinfourl(
            io.BytesIO(b"" if first else CONTENT), headers, request.full_url, code
        )
        answer.msg = "Found" if first else "OK"
        return answer

    def http_open(self, request):
        pytest.fail(f"left https for {request.full_url}")


@pytest.mark.parametrize("target", ["http://first.example/book.txt", "ftp://first.example/b"])
def test_a_redirect_away_from_https_is_refused(monkeypatch, target):
    handler = Redirects(target)
    monkeypatch.setattr(download, "open_https", download.https_opener(handler).open)
    one = PinnedFile(FILE.name, FILE.size, FILE.sha256, FILE.urls[:1])
    assert "refused, not https: " + target in message_of(one)
    assert handler.asked == [FILE.urls[0]]


def test_a_redirect_to_https_is_followed(monkeypatch):
    handler = Redirects("https://mirror.example/book.txt")
    monkeypatch.setattr(download, "open_https", download.https_opener(handler).open)
    assert obtain(FILE)[0] == CONTENT
    assert handler.asked == [FILE.urls[0], "https://mirror.example/book.txt"]


@pytest.mark.parametrize("url", ["http://first.example/b", "file:///etc/hostname"])
def test_an_address_without_https_is_refused(url):
    assert "refused, not https" in message_of(PinnedFile("b", 1, "0", (url,)))


def test_states_are_told_without_reading(tmp_path, monkeypatch):
    assert state_of(FILE) == "to download"
    cache_folder().mkdir(parents=True)
    (cache_folder() / "book.txt").write_bytes(CONTENT)
    assert state_of(FILE) == "cached"
    (cache_folder() / "book.txt").write_bytes(CONTENT[:-1])
    assert state_of(FILE) == "damaged, to download"
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path))
    (tmp_path / "book.txt").touch()
    assert state_of(FILE) == "in CHARLM_CORPORA"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/a/.cache"),
        ("linux", {}, "/home/a/.cache"),
        ("darwin", {}, "/home/a/Library/Caches"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
        ("win32", {}, "/home/a/AppData/Local"),
    ],
)
def test_the_cache_follows_the_platform(monkeypatch, platform, variables, expected):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(download.sys, "platform", platform)
    monkeypatch.setattr(download.Path, "home", lambda: Path("/home/a"))
    assert cache_folder() == Path(expected, "charlm_jax")


@pytest.mark.parametrize("file", [download.MYSTERIOUS_ISLAND, download.TINY_SHAKESPEARE])
def test_every_pinned_address_is_https_and_the_first_cannot_change(file):
    assert all(url.startswith("https://") for url in file.urls)
    assert len(file.sha256) == 64
    commit = file.urls[0].split("/")[5]
    assert len(commit) == 40
