"""Files pinned by hash, from the user's folder, else the cache, else a download with pooch.

A file with a different sha256 is never returned, wherever it was found.
"""

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from charlm_jax.core.errors import CharlmError, read_error, write_error
from charlm_jax.core.files import atomic_write
from charlm_jax.core.limits import MAX_INT32
from charlm_jax.core.notebook import in_notebook, open_output

if TYPE_CHECKING:
    from requests import Session

Progress = Callable[[int, int], None]
"""Callback with the bytes received so far and the total."""

FOLDER_VARIABLE = "CHARLM_CORPORA"
STALL_SECONDS = 20  # without a byte
LIMIT_SECONDS = 300  # in total for one URL: a server may also trickle
CHUNK_BYTES = 1 << 16

_MOST_BYTES = 4 * MAX_INT32  # of a file: a character has at most four

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinnedFile:
    """One exact edition of a file.

    Args:
      name: file name in the user's folder and in the cache.
      size: number of bytes.
      sha256: hash of the bytes, in hexadecimal.
      urls: https URLs, tried in order.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


# URLs that name a commit come first: their content cannot change, while Project Gutenberg serves
# its newest edition at the old URL.
MYSTERIOUS_ISLAND = PinnedFile(
    name="1268-0.txt",
    size=1_171_600,
    sha256="355bfdc3f9b5e384b1918e817dd086ce0df97f4d294c69f032fb70b95c1e737c",
    urls=(
        "https://raw.githubusercontent.com/rasbt/python-machine-learning-book-3rd-edition/"
        "463a16431cfcfd9a4beee7d46ed73ee080f69a15/ch16/1268-0.txt",
        "https://raw.githubusercontent.com/gilbutITbook/080223/"
        "fab318ed2a969c6e889f371631d98d500b8a603e/ch16/1268-0.txt",
        "https://www.gutenberg.org/files/1268/1268-0.txt",
        "https://www.gutenberg.org/cache/epub/1268/pg1268.txt",
    ),
)
TINY_SHAKESPEARE = PinnedFile(
    name="tinyshakespeare.txt",
    size=1_115_394,
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    urls=tuple(
        f"https://raw.githubusercontent.com/karpathy/char-rnn/{commit}/data/tinyshakespeare/input.txt"
        for commit in ("d1d7aa34fdb3626174bce1d753e6cc6845ce7087", "master")
    ),
)


def fetch(file: PinnedFile, *, progress: Progress | None = None) -> tuple[bytes, str]:
    """Return a file's bytes and their source.

    Args:
      file: file to look for.
      progress: callback for the progress of a download.

    Raises:
      CharlmError: the user's folder has another edition, or no URL served this one.
    """
    if own := in_user_folder(file):
        data = read_bytes(own)
        if sha256_of(data) != file.sha256:
            raise CharlmError(
                f"{own} is a different version: sha256 {sha256_of(data)}, not {file.sha256}; "
                f"replace it, or pass its path to --config.data.corpus to use it as its own corpus"
            )
        return data, str(own)
    cached = cache_folder() / file.name
    if os.path.exists(cached):
        data = read_bytes(cached)
        if sha256_of(data) == file.sha256:
            return data, str(cached)
        _move_aside(cached)
    import tempfile

    try:
        with tempfile.TemporaryDirectory() as folder:
            data, url = _download(file, Path(folder), progress)
    except OSError as error:
        raise write_error(tempfile.gettempdir(), error) from None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(cached, data)
    except OSError as error:
        _log.warning("%s could not be cached: %s", cached, error.strerror or error)
        return data, url
    return data, f"{url}, cached in {cached}"


def state_of(file: PinnedFile) -> str:
    """Return where `fetch` would find the file, judged by its size, not its hash."""
    if in_user_folder(file):
        return f"in {FOLDER_VARIABLE}"
    try:
        size = (cache_folder() / file.name).stat().st_size
    except OSError:
        return "to download"
    return "cached" if size == file.size else "damaged, to download"


def in_user_folder(file: PinnedFile) -> Path | None:
    """Return the file's path in the folder that CHARLM_CORPORA names, if it is there."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    if not os.path.isdir(folder):
        raise CharlmError(f"{FOLDER_VARIABLE}={folder!r} is not a folder; correct it or unset it")
    path = Path(folder, file.name)
    return path if os.path.exists(path) else None


def cache_folder() -> Path:
    """Return this user's cache folder for corpora: the platform's own, or XDG_CACHE_HOME's."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification ignores relative paths
        return Path(xdg, "charlm_jax")
    try:
        home = Path.home()
    except RuntimeError:
        raise CharlmError("no home folder for a cache: set XDG_CACHE_HOME to a folder") from None
    windows = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    base = {"win32": windows, "darwin": home / "Library" / "Caches"}
    return base.get(sys.platform, home / ".cache") / "charlm_jax"


def read_bytes(path: Path, *, most: int = _MOST_BYTES) -> bytes:
    """Return a regular file's bytes; pipes and devices, which could block, are refused.

    Args:
      path: path of the file.
      most: largest number of bytes.

    Raises:
      CharlmError: the file is missing, is not a regular file, is too large, or cannot be read.
    """
    if "\0" in str(path):
        raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
    try:
        if path.is_dir():
            raise CharlmError(f"{path} is a folder, not a file")
        if path.exists() and not path.is_file():
            raise CharlmError(f"{path} is not a regular file (a pipe or a device?)")
        size = path.stat().st_size
        if size > most:
            raise CharlmError(f"{path} has {size:,} bytes: the limit is {most:,}")
        return path.read_bytes() if size else b""  # files of the kernel have no size, and may wait
    except OSError as error:
        raise read_error(path, error) from None
    except UnicodeEncodeError:
        raise CharlmError(f"cannot read {path}: it is not a valid file name") from None


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def https_session() -> "Session":
    """Return a session that accepts only https URLs and redirects to them."""
    import ssl

    from requests import Session

    session = Session()
    del session.adapters["http://"]
    system = ssl.get_default_verify_paths()
    session.verify = system.cafile or system.capath or True  # True: certifi's certificates
    session.headers["Accept-Encoding"] = "identity"  # received bytes are the file's
    return session


def _download(file: PinnedFile, folder: Path, progress: Progress | None) -> tuple[bytes, str]:
    """Download a file into a folder; return its bytes and the first URL that served it.

    Raises:
      CharlmError: no URL served this edition.
      OSError: the folder cannot be written to.
    """
    import pooch
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    pooch.get_logger().setLevel(logging.WARNING)
    failures: dict[str, None] = {}
    for url in file.urls:
        try:
            path = pooch.retrieve(
                url,
                known_hash=file.sha256,
                fname=file.name,
                path=folder,
                downloader=partial(_receive, size=file.size, progress=progress),
            )
            return Path(path).read_bytes(), url
        except (RequestException, HTTPError) as error:
            reason = _reason(error)
        except ValueError as error:
            # From pooch, with both hashes in its first sentence; or for a malformed URL.
            first = str(error).partition(". ")[0]
            reason = f"serves a different version: {first}" if file.sha256 in first else first
        failures[f"{url.split('/')[2]}: {reason}"] = None
    advice = f"put it into a folder named by {FOLDER_VARIABLE}"
    advice += ", or pass a local file's path to --config.data.corpus"
    if any("a different version" in failure for failure in failures):
        advice += " (to train on a different version, save it and pass its path)"
    raise CharlmError(f"cannot download {file.name} ({'; '.join(failures)}); {advice}")


def _receive(url: str, output: str, _: object, *, size: int, progress: Progress | None) -> None:
    """Save the content of a URL; pooch's own downloader has no deadline for slow servers."""
    from requests import RequestException

    deadline = time.monotonic() + LIMIT_SECONDS
    received = 0
    with (
        https_session() as session,
        session.get(url, stream=True, timeout=STALL_SECONDS) as response,
        open(output, "wb") as file,
    ):
        response.raise_for_status()
        while chunk := response.raw.read1(CHUNK_BYTES):  # returns as soon as bytes arrive
            received += file.write(chunk)
            if received > size:
                raise RequestException(f"serves a different version, longer than {size:,} bytes")
            if time.monotonic() > deadline:
                raise RequestException(f"sent only {received:,} bytes in {LIMIT_SECONDS} seconds")
            if progress:
                progress(received, size)


def _reason(error: BaseException) -> str:
    """Return the first cause of a failed download, on one line."""
    from requests.exceptions import InvalidSchema

    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    prefix = "refused, not https: " if isinstance(error, InvalidSchema) else ""
    while cause := error.__cause__ or error.__context__:
        error = cause
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return prefix + " ".join(text.split())


def _move_aside(damaged: Path) -> None:
    aside = damaged.with_name(f"{damaged.name}.damaged")
    # Another process may have moved it; if it cannot be moved, the download replaces it.
    with suppress(OSError):
        os.replace(damaged, aside)
    _log.warning("%s was damaged: moved to %s, downloading it again", damaged, aside.name)


class DownloadProgress:
    """Progress of a download: a bar in a notebook, else a line to standard error every second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._show = open_output() if in_notebook() else None

    def __call__(self, received: int, total: int | None) -> None:
        now, done = time.monotonic(), received == total
        of = f" of {total / 1e6:.1f}" if total else ""
        line = f"downloading: {received / 1e6:.1f}{of} MB"
        if self._show is not None:
            bar = f'<progress value="{received}" max="{total}"></progress> '
            self._show(line if done or not total else bar + line, line, at_once=done)
        elif done or now - self._last > 1.0:
            self._last = now
            with contextlib.suppress(OSError):  # standard error may be closed
                print(line, file=sys.stderr)
