import errno
import hashlib
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, NamedTuple
from unittest import mock

import pooch.core
import pytest
from requests.adapters import HTTPAdapter

from charlm_jax.core.errors import CharlmError
from charlm_jax.data import download
from charlm_jax.data.download import PinnedFile, cache_folder, fetch, state_of
from tests.conftest import FakeNotebook

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


class Answer(NamedTuple):
    """An HTTP answer; `length` is announced, and `send` writes the body to the connection."""

    body: bytes = b""
    status: int = 200
    length: int | None = None
    location: str | None = None
    send: Callable[[BinaryIO, bytes], object] = lambda stream, body: stream.write(body)


class LocalServer(HTTPAdapter):
    """Sends https requests to a server on this machine, which gives answers in order.

    An answer that is an exception is raised where the host's name is looked up.
    """

    def __init__(self, answers):
        super().__init__()
        self.asked, self.answers = [], [Answer(a) if isinstance(a, bytes) else a for a in answers]
        self.hung_up = threading.Event()
        adapter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = adapter.answers.pop(0)
                self.send_response(answer.status)
                length = len(answer.body) if answer.length is None else answer.length
                self.send_header("Content-Length", str(length))
                if answer.location:
                    self.send_header("Location", answer.location)
                self.end_headers()
                try:
                    answer.send(self.wfile, answer.body)
                except OSError:
                    adapter.hung_up.set()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def send(self, request, **options):
        address = request.url
        self.asked.append(address)
        request.url = f"http://127.0.0.1:{self.server.server_port}/"
        failure = self.answers[0] if isinstance(self.answers[0], Exception) else None
        if failure:
            self.answers.pop(0)
        with mock.patch("socket.getaddrinfo", side_effect=failure or socket.getaddrinfo):
            response = super().send(request, **{**options, "proxies": {}})
        request.url = response.url = address
        return response

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch):
    """Has the addresses, in order, give these answers; returns the server."""
    servers, https_session = [], download.https_session

    def set_up(*answers):
        servers.append(LocalServer(answers))

        def session():
            session = https_session()
            session.mount("https://", servers[-1])
            return session

        monkeypatch.setattr(download, "https_session", session)
        return servers[-1]

    yield set_up
    for server in servers:
        server.stop()


def cached_names():
    return sorted(os.listdir(cache_folder())) if cache_folder().exists() else []


def message_of(file=FILE):
    with pytest.raises(CharlmError) as caught:
        fetch(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_download_is_reported_kept_and_then_read_from_the_cache(serve):
    server, reports = serve(CONTENT), []
    data, source = fetch(FILE, progress=lambda *report: reports.append(report))
    assert data == CONTENT
    assert server.asked == [FILE.urls[0]]
    assert FILE.urls[0] in source
    assert reports == sorted(reports)
    assert reports[-1] == (FILE.size, FILE.size)
    assert cached_names() == ["book.txt"]

    serve()
    assert fetch(FILE) == (CONTENT, str(cache_folder() / "book.txt"))


def send_100_MB(stream: BinaryIO, body: bytes) -> None:
    for _ in range(400):
        stream.write(body)


@pytest.mark.parametrize(
    "broken",
    [
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        Answer(status=404),
        Answer(CONTENT, send=lambda stream, body: threading.Event().wait(1.0)),
        CONTENT + b"!",
        CONTENT[:-1],
        b"!" + CONTENT[1:],
        Answer(CONTENT[:-1], length=len(CONTENT)),
    ],
    ids=["offline", "404", "timeout", "longer", "shorter", "other", "cut off"],
)
def test_the_second_address_is_used_where_the_first_fails(serve, monkeypatch, broken):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    server = serve(broken, CONTENT)
    assert fetch(FILE)[0] == CONTENT
    assert server.asked == list(FILE.urls)
    assert cached_names() == ["book.txt"]


def test_an_oversized_answer_is_not_read_to_its_end(serve):
    server = serve(Answer(CONTENT, length=400 * len(CONTENT), send=send_100_MB), CONTENT)
    reports = []
    assert fetch(FILE, progress=lambda *report: reports.append(report))[0] == CONTENT
    assert max(received for received, _ in reports) == FILE.size
    assert server.hung_up.wait(10)


def test_an_answer_that_drips_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(download, "LIMIT_SECONDS", 0.2)

    def drip(stream: BinaryIO, body: bytes) -> None:
        for byte in body[:60]:
            stream.write(bytes([byte]))
            threading.Event().wait(0.05)

    server = serve(*[Answer(CONTENT, send=drip)] * 2)
    message = message_of()
    for host in ("first.example", "second.example"):
        (received,) = re.findall(rf"{host}: sent only (\d+) bytes in 0.2 seconds", message)
        assert 0 < int(received) < 20
    assert server.hung_up.wait(10)


def test_another_edition_is_named_as_such_and_never_kept(serve):
    other = b"a newer edition"
    serve(other, CONTENT + b"longer")
    message = message_of()
    assert "first.example: serves a different version: SHA256" in message
    assert f"expected {FILE.sha256} but got {hashlib.sha256(other).hexdigest()}" in message
    assert "second.example: serves a different version, longer than 256,000 bytes" in message
    assert "to train on a different version, save it and pass its path" in message
    assert cached_names() == []


def test_offline_one_line_says_what_was_tried_and_what_to_do(serve):
    serve(socket.gaierror(-2, "Name or service not known"), Answer(status=503))
    message = message_of()
    assert "first.example: Name or service not known; second.example: HTTP 503" in message
    assert "CHARLM_CORPORA" in message
    assert "--config.data.corpus" in message
    assert "different version" not in message


def test_a_host_that_fails_twice_alike_is_named_once(serve):
    serve(OSError(1, "no route"), OSError(1, "no route"))
    twice = PinnedFile("b", 1, "0", ("https://a.example/1", "https://a.example/2"))
    assert message_of(twice).count("a.example") == 1


def test_a_truncated_answer_is_told_from_another_edition(serve):
    serve(Answer(CONTENT[:1_000], length=len(CONTENT)), OSError(1, "no route"))
    message = message_of()
    assert "1000 bytes read, 255000 more expected" in message
    assert "different version" not in message


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["receiving", "checking", "putting in place"])
def test_an_interrupted_download_leaves_nothing_behind(serve, monkeypatch, moment):
    serve(CONTENT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "checking":
            patch.setattr(pooch.core, "hash_matches", interrupt)
        if moment == "putting in place":
            patch.setattr(shutil, "move", interrupt)
        fetch(FILE, progress=interrupt if moment == "receiving" else None)
    assert cached_names() == []


def test_a_damaged_cached_file_is_set_aside_and_downloaded_again(serve, caplog):
    cache_folder().mkdir(parents=True)
    cached = cache_folder() / "book.txt"
    cached.write_bytes(b"!" + CONTENT[1:])
    serve(CONTENT)
    with caplog.at_level(logging.WARNING):
        assert fetch(FILE)[0] == CONTENT
    assert "book.txt was damaged" in caplog.text
    assert cached.read_bytes() == CONTENT
    assert (cache_folder() / "book.txt.damaged").read_bytes() == b"!" + CONTENT[1:]


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(serve, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    serve(CONTENT)
    data, source = fetch(FILE)
    assert (data, source) == (CONTENT, FILE.urls[0])
    assert "could not be cached: Not a directory" in caplog.text


def test_a_full_disk_is_one_line_and_its_file_is_not_kept(serve, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "atomic_write", full)
    serve(CONTENT)  # once: a file that cannot be kept is not downloaded again
    assert fetch(FILE) == (CONTENT, FILE.urls[0])
    assert "could not be cached: No space left on device" in caplog.text
    monkeypatch.setattr(download, "open", full, raising=False)
    serve(CONTENT)
    assert message_of() == f"cannot write to {tempfile.gettempdir()}: No space left on device"
    assert cached_names() == []


def test_the_users_folder_is_looked_in_first_and_checked(serve, tmp_path, monkeypatch):
    serve()
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path))
    own = tmp_path / "book.txt"
    own.write_bytes(CONTENT)
    assert fetch(FILE) == (CONTENT, str(own))
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
    assert fetch(FILE)[0] == CONTENT
    monkeypatch.setenv("CHARLM_CORPORA", str(tmp_path / "nowhere"))
    assert "nowhere' is not a folder" in message_of()


def test_concurrent_downloads_leave_one_whole_file(serve):
    barrier = threading.Barrier(4)

    def send(stream: BinaryIO, body: bytes) -> None:
        barrier.wait(timeout=10)
        stream.write(body)

    serve(*[Answer(CONTENT, send=send)] * 4)
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch(FILE)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 4
    assert cached_names() == ["book.txt"]
    assert (cache_folder() / "book.txt").read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["http://first.example/book.txt", "ftp://first.example/b"])
def test_a_redirect_away_from_https_is_refused(serve, target):
    server = serve(Answer(status=302, location=target))
    one = PinnedFile(FILE.name, FILE.size, FILE.sha256, FILE.urls[:1])
    message = message_of(one)
    assert "refused, not https" in message
    assert target in message
    assert server.asked == [FILE.urls[0]]


def test_a_redirect_to_https_is_followed(serve):
    server = serve(Answer(status=302, location="https://mirror.example/book.txt"), CONTENT)
    assert fetch(FILE)[0] == CONTENT
    assert server.asked == [FILE.urls[0], "https://mirror.example/book.txt"]


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


def test_a_notebook_draws_a_bar_and_keeps_a_line(notebook: FakeNotebook, capsys):
    report = download.DownloadProgress()
    assert notebook.outputs == 0
    report(500_000, 2_000_000)
    assert '<progress value="500000" max="2000000">' in notebook.output["text/html"]
    report(2_000_000, 2_000_000)
    assert notebook.output["text/html"] == "downloading: 2.0 of 2.0 MB"
    assert notebook.outputs == 1 and capsys.readouterr() == ("", "")


def test_elsewhere_a_download_is_a_line(capsys):
    download.DownloadProgress()(2_000_000, 2_000_000)
    assert capsys.readouterr() == ("", "downloading: 2.0 of 2.0 MB\n")
