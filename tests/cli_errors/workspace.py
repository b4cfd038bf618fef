"""The folder that the catalogue's commands run in.

A small config, texts, two trained runs, their models exported, and copies of the first that are
damaged in many ways.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from charlm_jax.cli import main
from tests.conftest import TINY

TEXTS: Mapping[str, bytes] = {
    "empty.txt": b"",
    "mark.txt": b"\xef\xbb\xbf",
    "short.txt": b"x" * 30,
    "one.txt": b"x",
    "fox.txt": b"the quick brown fox jumps over the lazy dog.\n" * 60 + b"!",
    "latin.txt": "café, ".encode("latin-1") * 50,
    "picture.png": bytes(range(256)) * 20,
    "mixed/a.txt": b"words and more words\n" * 50,
    "mixed/b.png": b"\x89PNG\r\n\x1a\n" * 50,
    "parts/ptb.train.txt": b"the quick brown fox\n" * 50,
    "parts/ptb.valid.txt": b"the lazy dog\n" * 50,
    "parts/README": b"words",
    "hidden/.secret.txt": b"words",
    "notes/notes.txt": b"mine",
    "surrogate.txt": b"a+2AA-b" * 50,  # a lone surrogate, in UTF-7
    "abc.txt": b"abc",
}

TINY_FILE = (
    "from configs import base\n\n\ndef get_config():\n    config = base.get_config()\n"
    + "".join(f"    config.{field} = {value!r}\n" for field, value in TINY.items())
    + "    return config\n"
)

CONFIGS: Mapping[str, str] = {
    "tiny.py": TINY_FILE,
    "seeds.py": f"{TINY_FILE}\n\ndef sweep():\n    return [{{'seed': s}} for s in (1, 2)]\n",
    "alike.py": f"{TINY_FILE}\n\ndef sweep():\n    return [{{'seed': 3}}, {{'seed': 3}}]\n",
    "too_long.py": f"{TINY_FILE}\n\ndef sweep():\n"
    "    return [{'data.sequence_length': n} for n in (5, 2900)]\n",
    "asks.py": "from configs import base\n\n\ndef get_config(path):\n    return base.get_config()",
    "unfinished.py": "def get_config(:\n",
    "nothing.py": "print = None\n",
    "fails.py": "def get_config():\n    return {}['learning_rate']\n",
    "misspelt.py": "from configs import base\n\n\ndef get_config():\n"
    "    config = base.get_config()\n    config.data.sequense_length = 3\n    return config\n",
    "wrong_type.py": "from configs import base\n\n\ndef get_config():\n"
    "    config = base.get_config()\n    config.seed = 'one'\n    return config\n",
}

TRAINED: Mapping[str, str] = {
    "done": "train --config=tiny.py --workdir=done",
    "other": "train --config=tiny.py --workdir=other --config.split.kind=none "
    "--config.model.hidden_size=7",
}

EXPORTED: Mapping[str, str] = {
    "exported": "export --workdir=done --out=exported",
    "exported_other": "export --workdir=other --out=exported_other",
}

NESTED = b"[" * 100_000 + b"\n"

# Copies of `done` in which one file holds other bytes. Where it is the metrics, the checkpoints,
# which have the same rows, are gone.
OVERWRITTEN: Mapping[str, tuple[str, bytes]] = {
    "config_empty": ("config.json", b""),
    "config_garbage": ("config.json", b"\xff\xfe garbage"),
    "config_torn": ("config.json", b'{\n  "seed": 1,\n  "da'),
    "config_nested": ("config.json", NESTED),
    "config_a_list": ("config.json", b"[1]"),
    "vocabulary_empty": ("vocabulary.json", b""),
    "vocabulary_garbage": ("vocabulary.json", b"\xff\xfe garbage"),
    "vocabulary_nested": ("vocabulary.json", NESTED),
    "vocabulary_null": ("vocabulary.json", b"null"),
    "run_garbage": ("run.json", b"\xff\xfe garbage"),
    "run_nested": ("run.json", NESTED),
    "run_a_list": ("run.json", b"[1]"),
    "metrics_garbage": ("metrics.jsonl", b"\xff\xfe garbage\n"),
    "metrics_nested": ("metrics.jsonl", NESTED),
    "metrics_a_list": ("metrics.jsonl", b"[1]\n"),
    "metrics_empty": ("metrics.jsonl", b""),
    "metrics_missing_fields": ("metrics.jsonl", b'{"step": 5}\n'),
}

# Copies of `done` in which a JSON file has other values, its first row in the case of the metrics.
CHANGED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "config_unknown": ("config.json", {"sed": 1}),
    "config_wrong_type": ("config.json", {"seed": "one"}),
    "config_no_section": ("config.json", {"data": None}),
    "symbols_number": ("vocabulary.json", {"symbols": 3}),
    "symbols_none": ("vocabulary.json", {"symbols": ""}),
    "symbols_unsorted": ("vocabulary.json", {"symbols": "ba"}),
    "symbols_more": ("vocabulary.json", {"symbols": "abcdefgh"}),
    "fingerprint_number": ("vocabulary.json", {"fingerprint": 3}),
    "fingerprint_other": ("vocabulary.json", {"fingerprint": "0"}),
    "sessions_number": ("run.json", {"sessions": 7}),
    "sessions_of_numbers": ("run.json", {"sessions": [7]}),
    "sessions_without": ("run.json", {"sessions": [{}]}),
    "sessions_environment": ("run.json", {"sessions": [{"environment": 3}]}),
    "step_zero": ("metrics.jsonl", {"step": 0}),
    "step_text": ("metrics.jsonl", {"step": "five"}),
    "loss_text": ("metrics.jsonl", {"loss_nats": "low"}),
    "hash_missing": ("metrics.jsonl", {"state_hash": None}),
}

# Copies of `done` in which something leads elsewhere.
LINKED: Mapping[str, str] = {
    "config_linked": "config.json",
    "metrics_linked": "metrics.jsonl",
    "checkpoint_linked": "checkpoints/19",
    "evaluation_linked": "evaluation",
    "inspect_linked": "inspect",
}


def _flip(file: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _unfinished(run: Path) -> None:
    for name in ("checkpoints", "metrics.jsonl", "run.json"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "checkpoints").mkdir()


def _best_damaged(run: Path) -> None:
    _flip(run / "checkpoints" / "38" / "params.npz")


def _best_note_damaged(run: Path) -> None:
    (run / "checkpoints" / "38" / "meta.json").write_bytes(b"\xff")


def _only_one_and_damaged(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "19")
    _best_damaged(run)


def _all_damaged(run: Path) -> None:
    _flip(run / "checkpoints" / "19" / "params.npz")
    (run / "checkpoints" / "38" / "contents.json").write_bytes(b"{}")


def _forge(run: Path, **changes: Any) -> None:
    """Give a checkpoint another note, as a hand or another version might, with the right hash."""
    folder = run / "checkpoints" / "38"
    note = json.loads((folder / "meta.json").read_text()) | changes
    data = json.dumps({name: value for name, value in note.items() if value != "gone"}).encode()
    (folder / "meta.json").write_bytes(data)
    contents = json.loads((folder / "contents.json").read_text())
    contents["meta.json"] = [len(data), hashlib.sha256(data).hexdigest()]
    (folder / "contents.json").write_text(json.dumps(contents))


def _note_without_tally(run: Path) -> None:
    _forge(run, tally="gone")


def _note_without_loss(run: Path) -> None:
    _forge(run, loss_nats="gone")


def _note_of_other_arrays(run: Path) -> None:
    _forge(run, arrays={"params": {"embedding": 3}, "training": {}})


def _of_another_model(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "other" / "checkpoints", run / "checkpoints")


def _inspect_a_file(run: Path) -> None:
    (run / "inspect").write_text("mine")


def _checkpoints_a_file(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("mine")


def _fault_damaged(run: Path) -> None:
    (run / "fault" / "3").mkdir(parents=True)


def _config_gone(run: Path) -> None:
    (run / "config.json").unlink()


def _vocabulary_gone(run: Path) -> None:
    (run / "vocabulary.json").unlink()


def _config_a_folder(run: Path) -> None:
    _config_gone(run)
    (run / "config.json").mkdir()


DAMAGED: Mapping[str, Callable[[Path], None]] = {
    "unfinished": _unfinished,
    "best_damaged": _best_damaged,
    "best_note_damaged": _best_note_damaged,
    "only_one_and_damaged": _only_one_and_damaged,
    "all_damaged": _all_damaged,
    "note_without_tally": _note_without_tally,
    "note_without_loss": _note_without_loss,
    "note_of_other_arrays": _note_of_other_arrays,
    "of_another_model": _of_another_model,
    "inspect_a_file": _inspect_a_file,
    "checkpoints_a_file": _checkpoints_a_file,
    "fault_damaged": _fault_damaged,
    "config_gone": _config_gone,
    "config_a_folder": _config_a_folder,
    "vocabulary_gone": _vocabulary_gone,
}


def _weights_torn(export: Path) -> None:
    file = export / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _weights_flipped(export: Path) -> None:
    _flip(export / "model.safetensors")


def _weights_garbage(export: Path) -> None:
    (export / "model.safetensors").write_bytes(b"\xff\xfe garbage")


def _weights_gone(export: Path) -> None:
    (export / "model.safetensors").unlink()


def _weights_a_folder(export: Path) -> None:
    _weights_gone(export)
    (export / "model.safetensors").mkdir()


def _weights_a_link(export: Path) -> None:
    _weights_gone(export)
    (export / "model.safetensors").symlink_to("../exported/model.safetensors")


def _weights_of_another(export: Path) -> None:
    shutil.copy("exported_other/model.safetensors", export)


def _config_torn(export: Path) -> None:
    (export / "config.json").write_bytes(b'{\n  "seed": 1,\n  "da')


def _another_config(export: Path) -> None:
    shutil.copy("exported_other/config.json", export)


def _another_symbol(export: Path) -> None:
    file = export / "vocabulary.json"
    file.write_text(file.read_text().replace("abcd", "abce"))


# The same of exported models.
DAMAGED_EXPORTS: Mapping[str, Callable[[Path], None]] = {
    "weights_torn": _weights_torn,
    "weights_flipped": _weights_flipped,
    "weights_garbage": _weights_garbage,
    "weights_gone": _weights_gone,
    "weights_a_folder": _weights_a_folder,
    "weights_a_link": _weights_a_link,
    "weights_of_another": _weights_of_another,
    "exported_config_gone": _config_gone,
    "exported_config_torn": _config_torn,
    "exported_vocabulary_gone": _vocabulary_gone,
    "another_config": _another_config,
    "another_symbol": _another_symbol,
}


def _copy_done(run: str, changed: str) -> None:
    shutil.copytree("done", run)
    if changed == "metrics.jsonl":
        shutil.rmtree(Path(run, "checkpoints"))
        Path(run, "checkpoints").mkdir()


def build_world(folder: Path) -> None:
    """Make everything that the catalogue's commands name; the current folder becomes this one."""
    os.chdir(folder)
    for name, data in TEXTS.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(data)
    for name, text in CONFIGS.items():
        Path(name).write_text(text)
    Path("bare").mkdir()
    Path("lost.txt").symlink_to("nowhere.txt")
    for command in (*TRAINED.values(), *EXPORTED.values()):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(shlex.split(command)) == 0
    for run, (name, data) in OVERWRITTEN.items():
        _copy_done(run, name)
        Path(run, name).write_bytes(data)
    for run, (name, values) in CHANGED.items():
        _copy_done(run, name)
        file = Path(run, name)
        first, *rest = (
            file.read_text().splitlines(keepends=True) if name[-1] == "l" else [file.read_text()]
        )
        file.write_text(json.dumps(json.loads(first) | values) + "\n" + "".join(rest))
    for run, name in LINKED.items():
        shutil.copytree("done", run)
        path = Path(run, name)
        if path.exists():
            path.rename(f"{run}.{Path(name).stem}")
        path.symlink_to(f"../{run}.{Path(name).stem}")
    for run, damage in DAMAGED.items():
        shutil.copytree("done", run)
        damage(Path(run))
    for run, damage in DAMAGED_EXPORTS.items():
        shutil.copytree("exported", run)
        damage(Path(run))
    Path("elsewhere").symlink_to("done")


def state_of(folder: str | Path) -> dict[str, bytes]:
    """Every path below a folder with its bytes. Locks come and go, Python may compile modules."""
    state = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            if entry.name not in ("lock", "__pycache__"):
                changed = (facts.st_mtime_ns, facts.st_size)
                state[entry.path] = _content(entry.path, facts.st_mode, *changed)
            if entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                state |= state_of(entry.path)
    return state


@functools.cache
def _content(path: str, mode: int, *changed: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(path))
    return Path(path).read_bytes() if stat.S_ISREG(mode) else b""
