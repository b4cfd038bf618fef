"""Files known by their sha256: looked for in the user's folder, in the cache, then on the network.

No byte of another edition is ever handed out under a file's name, wherever it was found.
"""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from charlm_jax.core.errors import CharlmError

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and the bytes in all."""

FOLDER_VARIABLE = "CHARLM_CORPORA"
STALL_SECONDS = 20  # without a byte
LIMIT_SECONDS = 300  # for one address in all: a server may also drip
CHUNK_BYTES = 1 << 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PinnedFile:
    """One exact edition of a file.

    Args:
      name: of the file, in the user's folder and in the cache.
      size: in bytes.
      sha256: of its bytes, in hexadecimal.
      urls: https addresses, tried in order.
    """

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


# Addresses that name a commit come first: what they serve cannot change, while Project Gutenberg
# puts its newest edition under the old address.
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


def obtain(file: PinnedFile, *, progress: Progress | None = None) -> tuple[bytes, str]:
    """Returns a file's bytes and where they came from.

    Args:
      file: which file.
      progress: told about a download as it goes.

    Raises:
      CharlmError: another edition lies in the user's folder, or no address gave this one.
    """
    if own := in_user_folder(file):
        data = read_bytes(own)
        if sha256_of(data) != file.sha256:
            raise CharlmError(
                f"{own} is another edition: sha256 {sha256_of(data)}, not {file.sha256}; replace "
                f"it, or pass its path to --config.data.corpus, which makes it another corpus"
            )
        return data, str(own)
    cached = cache_folder() / file.name
    if os.path.exists(cached):
        data = read_bytes(cached)
        if sha256_of(data) == file.sha256:
            return data, str(cached)
        _move_aside(cached)
    data, url = _download(file, progress)
    return data, f"{url}, kept in {cached}" if _keep(cached, data) else url


def state_of(file: PinnedFile) -> str:
    """Returns where `obtain` would find the file, judged by its size and not by its hash."""
    if in_user_folder(file):
        return f"in {FOLDER_VARIABLE}"
    try:
        size = (cache_folder() / file.name).stat().st_size
    except OSError:
        return "to download"
    return "cached" if size == file.size else "damaged, to download"


def in_user_folder(file: PinnedFile) -> Path | None:
    """Returns the file's path in the folder that CHARLM_CORPORA names, if it is there."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    if not os.path.isdir(folder):
        raise CharlmError(f"{FOLDER_VARIABLE}={folder!r} is not a folder; correct it or unset it")
    path = Path(folder, file.name)
    return path if os.path.exists(path) else None


def cache_folder() -> Path:
    """Returns this user's cache folder for corpora: the platform's own, or XDG_CACHE_HOME's."""
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):  # the XDG specification has relative paths ignored
        return Path(xdg, "charlm_jax")
    try:
        home = Path.home()
    except RuntimeError:
        raise CharlmError("no home folder for a cache: set XDG_CACHE_HOME to a folder") from None
    windows = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    base = {"win32": windows, "darwin": home / "Library" / "Caches"}
    return base.get(sys.platform, home / ".cache") / "charlm_jax"


def read_bytes(path: Path) -> bytes:
    """Returns a regular file's bytes; of a pipe or a device, reading could wait for ever.

    Raises:
      CharlmError: it is missing, not a regular file, or may not be read.
    """
    if "\0" in str(path):
        raise CharlmError(f"{str(path)!r} is not a path: it has a NUL byte")
    try:
        if path.is_dir():
            raise CharlmError(f"{path} is a folder, not a file")
        if path.exists() and not path.is_file():
            raise CharlmError(f"{path} is not a regular file (a pipe or a device?)")
        return path.read_bytes()
    except OSError as error:
        raise CharlmError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeEncodeError:
        raise CharlmError(f"cannot read {path}: no file can have this name") from None


def sha256_of(data: bytes) -> str:
    """Returns what `sha256sum` prints for these bytes."""
    return hashlib.sha256(data).hexdigest()


def https_opener(*handlers: Any) -> "OpenerDirector":
    """Returns an opener that follows redirects to https addresses only."""
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class HttpsRedirects(HTTPRedirectHandler):
        def redirect_request(self, *args: Any) -> Request | None:
            _require_https(args[-1])
            return super().redirect_request(*args)

    opener = build_opener(HttpsRedirects, *handlers)
    opener.addheaders = [("User-Agent", "charlm_jax")]
    return opener


def open_https(url: str) -> Any:
    """Returns the open response of an https address."""
    _require_https(url)
    return https_opener().open(url, timeout=STALL_SECONDS)


def _require_https(url: str) -> None:
    if not url.lower().startswith("https://"):
        raise OSError(f"refused, not https: {url}")


def _download(file: PinnedFile, progress: Progress | None) -> tuple[bytes, str]:
    """Returns the bytes of the first address that serves this edition, and the address."""
    from http.client import HTTPException

    failures: dict[str, None] = {}
    for url in file.urls:
        host = url.split("/")[2]
        try:
            data = _receive(url, file, progress)
        except (OSError, HTTPException) as error:
            failures[f"{host}: {_reason(error)}"] = None
            continue
        if sha256_of(data) == file.sha256:
            return data, url
        failures[f"{host}: serves another edition, sha256 {sha256_of(data)}"] = None
    advice = f"put it into a folder named by {FOLDER_VARIABLE}"
    advice += ", or pass a local file's path to --config.data.corpus"
    if any("another edition" in failure for failure in failures):
        advice += " (to train on another edition, save it and pass its path)"
    raise CharlmError(f"cannot download {file.name} ({'; '.join(failures)}); {advice}")


def _receive(url: str, file: PinnedFile, progress: Progress | None) -> bytes:
    """Returns what an address serves, in memory: an interrupted download leaves nothing behind.

    Raises:
      OSError: it is longer than the file, was cut off, or took too long.
    """
    deadline = monotonic() + LIMIT_SECONDS
    data = bytearray()
    with open_https(url) as response:
        length = response.headers.get("Content-Length")
        while piece := response.read1(CHUNK_BYTES):
            data += piece
            if len(data) > file.size:
                raise OSError(f"serves another edition, longer than {file.size:,} bytes")
            if monotonic() > deadline:
                raise OSError(f"gave {len(data):,} bytes in {LIMIT_SECONDS} seconds")
            if progress:
                progress(len(data), file.size)
    if length is not None and length.isdecimal() and len(data) < int(length):
        raise OSError(f"cut off after {len(data):,} of {int(length):,} bytes")
    return bytes(data)


def _reason(error: Exception) -> str:
    """Returns an error's cause in few words, on one line."""
    if code := getattr(error, "code", None):
        return f"HTTP {code}"
    cause = getattr(error, "reason", error)
    return " ".join(str(getattr(cause, "strerror", None) or cause or type(cause).__name__).split())


def _move_aside(damaged: Path) -> None:
    aside = damaged.with_name(f"{damaged.name}.damaged")
    # Another process may have been first; and where nothing can be moved, `_keep` will say so.
    with suppress(OSError):
        os.replace(damaged, aside)
    _log.warning("%s was damaged: set aside as %s, downloading it again", damaged, aside.name)


def _keep(path: Path, data: bytes) -> bool:
    """Puts checked bytes into the cache in one step; returns whether it could be written."""
    from tempfile import mkstemp

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        _log.warning("%s was not kept in the cache: %s", path, error.strerror or error)
        return False
    return True


class DownloadProgress:
    """Says on standard error how much of a download has arrived, once a second at most."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, received: int, total: int | None) -> None:
        now, done = time.monotonic(), received == total
        if done or now - self._last > 1.0:
            self._last = now
            of = f" of {total / 1e6:.1f}" if total else ""
            print(f"downloading: {received / 1e6:.1f}{of} MB", file=sys.stderr)
