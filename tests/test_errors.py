"""Every mistake that we could think of, and the one line that it gets.

`python -m tests.test_errors` prints the whole catalogue, each command and its line, for a person
to read. The commands run in a folder that `build_world` makes: a small config, texts, two trained
runs, their models exported, and copies of the first that are damaged in many ways.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import pytest

from charlm_jax.cli import main
from charlm_jax.config_files import load_config
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent
SECONDS = 60  # in which a mistake must have its answer, even on a busy machine
HUGE_BYTES = 6 * 2**30  # address space of the process that is asked for models of any size

# The folder that the commands run in.

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

# Copies of `done` in which one file holds other bytes.
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
    "sittings_number": ("run.json", {"sittings": 7}),
    "sittings_of_numbers": ("run.json", {"sittings": [7]}),
    "sittings_without": ("run.json", {"sittings": [{}]}),
    "sittings_environment": ("run.json", {"sittings": [{"environment": 3}]}),
    "step_zero": ("metrics.jsonl", {"step": 0}),
    "step_text": ("metrics.jsonl", {"step": "five"}),
    "loss_text": ("metrics.jsonl", {"loss_nats": "low"}),
    "hash_missing": ("metrics.jsonl", {"state_hash": None}),
}

# Copies of `done` in which something leads elsewhere.
LINKED: Mapping[str, str] = {
    "config_linked": "config.json",
    "metrics_linked": "metrics.jsonl",
    "checkpoints_linked": "checkpoints",
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


def _evaluation_a_file(run: Path) -> None:
    (run / "evaluation").write_text("mine")


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
    "evaluation_a_file": _evaluation_a_file,
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
        shutil.copytree("done", run)
        Path(run, name).write_bytes(data)
    for run, (name, values) in CHANGED.items():
        shutil.copytree("done", run)
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


# The catalogue: what is typed behind `charlm`, and what the answer must say.

Says = str | tuple[str, ...]

TRAIN = "train --config=tiny.py --workdir=new"
SWEEP = "sweep --config=seeds.py --workdir=new"
ON_DONE = "train --config=tiny.py --workdir=done"

CATALOGUE: Mapping[str, Sequence[tuple[str, Says]]] = {
    "Commands and flags": [
        ("", ("no command", "train, sweep, sample, evaluate")),
        ("trian", ("'trian'", "train")),
        ("Train", ("'Train'", "train")),
        ("--config=tiny.py", "no command"),
        ("train", ("missing", "--config")),
        ("train tiny.py", ("missing", "--config")),
        ("train --config", "--config has no value: write --"),
        ("train --config=tiny.py --workdir", "--workdir has no value: write --"),
        ("train --config=tiny.py --workdri=x", "did you mean --workdir?"),
        ("train --config=tiny.py --work-dir=x", "did you mean --workdir?"),
        ("train --config=tiny.py --init-from=done", "did you mean --init_from?"),
        ("train --config=tiny.py --fresh=yes", "--fresh takes no value"),
        ("train --config=tiny.py --prompt=a", "unknown argument --prompt"),
        ("train --config=tiny.py --checkpoint=best", "unknown argument --checkpoint"),
        ("train --config=tiny.py --seed=3", "unknown argument --seed"),
        ("train --config=tiny.py seed=3", "unknown argument seed"),
        ("train --config=tiny.py -config.seed=3", "unknown argument -config.seed"),
        ("train --config=tiny.py extra", "unknown argument extra"),
        ("train --config=tiny.py '--two\nlines'", "unknown argument --two"),
        ("train --config=tiny.py --workdir=", "--workdir is an empty text"),
        ("train --config=tiny.py --init_from=", "--init_from is an empty text"),
        ("train --config=tiny.py --init_from", "--init_from has no value: write --"),
        ("sample", ("missing", "--workdir")),
        ("sample --workdir=done", "missing: --prompt or --prompt_file"),
        ("sample --prompt=a", ("missing", "--workdir")),
        ("sample done --prompt=a", ("missing", "--workdir")),
        ("sample --workdir= --prompt=a", "--workdir is an empty text"),
        ("sample --workdir=done --prompt", "--prompt has no value: write --"),
        ("sample --workdir=done --prompt=a --temperature=1", "unknown argument --temperature"),
        ("sample --workdir=done --prompt=a --scales=1", "did you mean --scale?"),
        ("sample --workdir=done --prompt=a --json=yes", "--json takes no value"),
        ("sample --workdir=done --prompt=a --prompt_file=abc.txt", "are two prompts: give one"),
        ("sample --workdir=done --prompt= --prompt_file=-", "are two prompts: give one"),
        ("sample --workdir=done --prompt_file", "--prompt_file has no value: write --"),
        ("sample --workdir=done --prompt_file=", "--prompt_file is an empty text: name a file"),
        ("sample --workdir=done --promptfile=a", "did you mean --prompt_file?"),
        ("sample --workdir=done --prompt=a --stop", "--stop has no value: write --"),
        ("sample --workdir=done --prompt=a --layout=table", ("'table'", "auto", "columns", "rows")),
        ("sample --workdir=done --prompt=a --layout=rows --json", "--layout means nothing with"),
        ("sample --workdir=done --interactive=yes", "--interactive takes no value"),
        ("sample --workdir=done --interactive --json", "--json means nothing with --interactive"),
        ("sample --workdir=done --interactive --num=2", "--num means nothing with --interactive"),
        ("sample --workdir=done --interactive --layout=rows", "--layout means nothing with"),
        ("sample --workdir=done --interactive --scale=1,2", "give one --scale"),
        ("sample --workdir=done --interactive --prompt_file=-", "both read standard input"),
        ("evaluate --workdir=done --interactive", "unknown argument --interactive"),
        ("sample --workdir=done --prompt=a --fresh", "unknown argument --fresh"),
        ("sample --workdir=done --prompt=a --config.seed=1", "--config.seed=1 means nothing"),
        ("evaluate", ("missing", "--workdir")),
        ("evaluate --workdir=done --prompt=a", "unknown argument --prompt"),
        ("score", ("missing", "--workdir, FILE")),
        ("score --workdir=done", ("missing", "FILE")),
        ("score fox.txt", ("missing", "--workdir")),
        ("score --workdir=done ''", "FILE is an empty text: name a file"),
        ("score --workdir=done fox.txt --html=", "--html is an empty text: name a file"),
        ("score --workdir=done fox.txt --beside=", "--beside is an empty text: name a folder"),
        ("score --workdir=done fox.txt --html", "--html has no value: write --"),
        ("score --workdir=done fox.txt short.txt", "unknown argument short.txt"),
        ("score --workdir=done fox.txt --split=valid", "unknown argument --split"),
        ("score --workdir=done fox.txt --sort", "--sort has no value: write --"),
        ("score --workdir=done fox.txt --sort=size", ("--sort='size'", "text", "surprise")),
        ("score --workdir=done fox.txt --mode=carried", ("--mode='carried'", "stream", "window")),
        ("inspect", ("missing", "--workdir, --text")),
        ("inspect --workdir=done", ("missing", "--text")),
        ("inspect --workdir=done --text", "--text has no value: write --"),
        ("inspect --workdir=done --text=a --out=", "--out is an empty text"),
        ("inspect --workdir=done --text=a --mode=window", "unknown argument --mode"),
        ("report", ("missing", "DIR")),
        ("report done --workdir=done", "unknown argument --workdir"),
        ("report done --out=", "--out is an empty text: name a file"),
        ("report done ''", "DIR is an empty text: name a folder"),
        ("compare ''", "DIR is an empty text: name a folder"),
        ("train --config=tiny.py --tensorboard=yes", "--tensorboard takes no value"),
        ("runs a b", "unknown argument b"),
        ("runs --folder=x", "unknown argument --folder"),
        ("runs ''", "DIR is an empty text"),
        ("verify", ("missing", "--workdir")),
        ("verify --workdir=done --seed=1", "unknown argument --seed"),
        ("replay", ("missing", "--workdir")),
        ("replay --workdir=done --steps=3", "unknown argument --steps"),
        ("summary", ("missing", "--config")),
        ("summary --config=tiny.py --workdir=done", "unknown argument --workdir"),
        ("corpora a b", "unknown argument b"),
        ("corpora --config=tiny.py", "unknown argument --config"),
        ("--version=3", "--version takes no value"),
        ("runs --config.seed=3", "--config.seed=3 means nothing"),
    ],
    "Config files": [
        ("train --config=", "no config ''"),
        ("train --config=tutorail", ("'tutorail'", ", quickstart, ")),
        ("train --config=base", ("'base'", "a file ending in .py")),
        ("train --config='two\nlines'", "no config 'two"),
        ("train --config=nowhere.py", ("'nowhere.py'", "a file ending in .py")),
        ("train --config=fox.txt", ("'fox.txt'", "a file ending in .py")),
        ("train --config=notes", ("'notes'", "a file ending in .py")),
        ("train --config=" + "x" * 3000 + ".py", "no config"),
        ("train --config='a\0b.py'", "no config"),
        ("train --config=my_text", "needs an argument: write --config=my_text:"),
        ("train --config=my_text:", "config.data.corpus=''"),
        ("train --config=tutorial:x", "takes no argument: write --config=tutorial"),
        ("train --config=tiny.py:x", "takes no argument: write --config=tiny.py"),
        ("train --config=asks.py", "needs an argument: write --config=asks.py:"),
        ("train --config=unfinished.py", ("unfinished.py", "SyntaxError")),
        ("train --config=nothing.py", ("nothing.py", "get_config")),
        ("train --config=fails.py", ("fails.py", "KeyError: 'learning_rate'")),
        ("train --config=misspelt.py", "did you mean config.data.sequence_length?"),
        ("train --config=wrong_type.py", "seed"),
    ],
    "Fields": [
        (f"{TRAIN} --config.sed=3", "did you mean config.seed?"),
        (f"{TRAIN} --config.batch_size=3", "did you mean config.data.batch_size?"),
        (f"{TRAIN} --config.data.sequense_length=3", "did you mean config.data.sequence_length?"),
        (f"{TRAIN} --config.model.learning_rate=1", "did you mean config.optimizer.learning_rate?"),
        (f"{TRAIN} --config.xyzzy=3", ("config.xyzzy is not a field", "data.batch_size")),
        (f"{TRAIN} --config.data=3", ("config.data is a section", "config.data.batch_size")),
        (f"{TRAIN} --config.data.=3", "is not a field"),
        (f"{TRAIN} --config.data.corpus.x=3", "did you mean config.data.corpus?"),
        (f"{TRAIN} --config..seed=3", "did you mean config.seed?"),
        (f"{TRAIN} --config.=3", "is not a field"),
        (f"{TRAIN} '--config.two\nlines=3'", "is not a field"),
        (f"{TRAIN} '--config.two\nlines'", "has no value"),
        (f"{TRAIN} --config.seed", "write --config.seed=VALUE"),
        (f"{TRAIN} --config.seed 3", "write --config.seed=VALUE"),
        (f"{TRAIN} --config.data", "write --config.data=VALUE"),
        ("summary --config=tiny.py --config.sed=3", "did you mean config.seed?"),
    ],
    "Names": [
        (f"{TRAIN} --config.model.layers=lstn", ("'lstn'", "lstm, gru, rnn")),
        (f"{TRAIN} --config.model.layers=LSTM", ("'LSTM'", "lstm, gru, rnn")),
        (f"{TRAIN} --config.model.layers=lstm,grew", ("'grew'", "lstm, gru, rnn")),
        (f"{TRAIN} '--config.model.layers=lstm gru'", ("'lstm gru'", "lstm, gru, rnn")),
        (f"{TRAIN} --config.model.layers=2", ("'2'", "lstm, gru, rnn")),
        (f"{TRAIN} --config.model.init=torch", ("'torch'", "keras, flax")),
        (f"{TRAIN} --config.data.loader=chunk", ("'chunk'", "chunks, crops, streams")),
        (f"{TRAIN} --config.split.kind=head", ("'head'", "tail, interleaved, none")),
        (f"{TRAIN} --config.split.vocabulary=valid", ("'valid'", "all, train")),
        (f"{TRAIN} --config.optimizer.schedule=step", ("'step'", "constant, cosine")),
        ("summary --config=tiny.py --symbols=9 --config.model.layers=lstn", "lstm, gru, rnn"),
        ("summary --config=tiny.py --symbols=9 --config.model.init=x", "keras, flax"),
    ],
    "Fields that must fit together": [
        (
            f"{TRAIN} --config.data.reset_probability=0.1",
            ("config.data.reset_probability=0.1", "config.data.loader=streams"),
        ),
        (
            f"{TRAIN} --config.split.kind=none --config.train.patience=3",
            ("config.train.patience=3", "config.split.kind=none"),
        ),
        (
            f"{TRAIN} --config.split.valid_fraction=0.5 --config.split.test_fraction=0.5",
            ("config.split.test_fraction=0.5", "below 1", "split.valid_fraction"),
        ),
        (
            f"{TRAIN} --config.split.valid_fraction=0.999999",
            ("too short", "would do"),
        ),
        (
            f"{TRAIN} --config.data.loader=streams --config.data.batch_size=1000",
            ("config.data.batch_size=1000 streams", "smaller batch"),
        ),
        (
            f"{TRAIN} --config.split.kind=interleaved",
            ("too short: 3000 characters", "would do"),
        ),
        (
            f"{TRAIN} --config.split.kind=interleaved --config.split.blocks=3000",
            ("too short", "would do"),
        ),
        (
            f"{TRAIN} --config.data.sequence_length=2800",
            ("too short: 3000 characters", "config.data.sequence_length=2800", "would do"),
        ),
        (
            f"{TRAIN} --config.data.batch_size=1000000000",
            ("config.data.batch_size=1000000000", "2**31"),
        ),
        (
            f"{TRAIN} --config.train.epochs=2147483647",
            ("steps is too long", "config.train.max_steps"),
        ),
        (
            f"{TRAIN} --config.data.corpus=fox.txt --config.split.vocabulary=train",
            ("'!' (U+0021)", "--config.split.vocabulary=all"),
        ),
    ],
    "Sweeps": [
        ("sweep", ("missing", "--config")),
        ("sweep --config=tutorail", ("'tutorail'", "sweeps/sequence_length")),
        ("sweep --config=tiny.py", "tiny.py defines no function sweep"),
        ("sweep --config=unfinished.py", ("unfinished.py", "SyntaxError")),
        ("sweep --config=sweeps/variants:gru", "takes no argument: write --config=sweeps/variants"),
        ("sweep --config=sweeps/sequence_length:gru", ("'gru'", "lstm, transformer, mingru")),
        ("sweep --config=alike.py --workdir=new", "points 1 and 2 of the sweep are the same"),
        (
            "sweep --config=too_long.py --workdir=new",
            ("point sequence_length=2900", "too short: 3000 characters", "would do"),
        ),
        (f"{SWEEP} --fresh", "unknown argument --fresh"),
        (f"{SWEEP} --dry_run=yes", "--dry_run takes no value"),
        (f"{SWEEP} --jobs=0", ("jobs=0", "at least 1")),
        (f"{SWEEP} --jobs=all", "'all' is not an integer"),
        (f"{SWEEP} --launcher=cloud", ("'cloud'", "local", "slurm")),
        (f"{SWEEP} --launcher=slurm", "write --slurm=time=MINUTES"),
        (f"{SWEEP} --slurm=time=60", "means nothing without --launcher=slurm"),
        (f"{SWEEP} --launcher=slurm --slurm=fast", "'fast' is not a list such as time=60"),
        (f"{SWEEP} --config.seed=3", ("varies config.seed (1, 2)", "leave it out")),
        (f"{SWEEP} --config.sed=3", "did you mean config.seed?"),
        (f"{SWEEP} --config.model.layers=lstn", ("point seed=1", "'lstn'", "lstm, gru, rnn")),
        (f"{SWEEP} --config.data.corpus=atlantis", ("point seed=1", "'atlantis'")),
        ("sweep --config=seeds.py --workdir=", "--workdir is an empty text"),
        ("sweep --config=seeds.py --workdir='a\0b'", "NUL"),
        ("sweep --config=seeds.py --workdir=fox.txt", "fox.txt is not a folder"),
        ("sweep --config=seeds.py --workdir=fox.txt/x", "fox.txt/x"),
        ("sweep --config=seeds.py --workdir=notes", "notes exists and is not a sweep"),
        ("sweep --config=seeds.py --workdir=done", "done exists and is not a sweep"),
        ("sweep --config=seeds.py --workdir=/proc/run", "cannot write to /proc/run"),
        ("sweep --config=seeds.py --workdir=" + "x" * 3000, "xxx"),
    ],
    "Texts": [
        (f"{TRAIN} --config.data.corpus=atlantis", ("'atlantis'", "mysterious-island")),
        (f"{TRAIN} --config.data.corpus=shakespear", "did you mean 'shakespeare'?"),
        ("corpora mysterious-iland", "did you mean 'mysterious-island'?"),
        ("corpora Synthetic", "did you mean 'synthetic'?"),
        ("corpora ''", "no such file"),
        ("corpora nowhere.txt", ("'nowhere.txt'", "no such file")),
        ("corpora nowhere/", ("'nowhere/'", "no such file")),
        ("corpora 'a\0b'", "no such file"),
        ("corpora 'two\nlines'", "no such file"),
        ("corpora " + "x" * 3000, "no such file"),
        ("corpora http://example.org/book.txt", "no such file"),
        ("corpora fox.txt/page", "no such file"),
        ("corpora empty.txt", "'empty.txt' is empty"),
        ("corpora mark.txt", "'mark.txt' is empty"),
        ("train --config=my_text:empty.txt --workdir=new", "empty.txt' is empty"),
        ("train --config=my_text:short.txt --workdir=new", ("30 characters", "would do")),
        ("train --config=my_text:one.txt --workdir=new", ("1 characters", "would do")),
        ("train --config=my_text:latin.txt --workdir=new", ("0xe9 at offset 3", "latin-1")),
        ("train --config=my_text:picture.png --workdir=new", ("0x80 at offset 128", "glob")),
        ("train --config=my_text:nothing/*.txt --workdir=new", "no file to read"),
        ("corpora mixed", ("mixed/b.png", "0x89 at offset 0", "*.txt")),
        ("corpora bare", "'bare' has no file to read"),
        ("corpora hidden", ("'hidden' has no file to read", "begin with a dot")),
        ("corpora '*.nothing'", "'*.nothing' has no file to read"),
        ("corpora lost.txt", "cannot read lost.txt"),
        ("corpora /dev/null", "/dev/null is not a regular file"),
        ("corpora synthetic:size=3", ("'size'", "reach, symbols, copy")),
        ("corpora synthetic:reach=far", "reach='far' is not a whole number"),
        ("corpora synthetic:reach=2,reach=3", "reach is given twice"),
        ("corpora synthetic:copy=2", "copy=2.0 is not from 0 to 1"),
        ("corpora synthetic:copy=nan", "copy=nan is not from 0 to 1"),
        ("corpora synthetic:characters=1000000000", "characters=1000000000 is not from 2 to"),
        ("corpora synthetic:symbols=63", "symbols=63 is not from 2 to 62"),
        ("corpora synthetic:seed=-1", "seed=-1 is not from 0"),
    ],
    "Encodings": [
        ("corpora fox.txt --encoding=utf9", ("'utf9'", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=", ("''", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=base64", ("'base64'", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=hex", ("'hex'", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=rot13", ("'rot13'", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=zlib", ("'zlib'", "utf-8, latin-1")),
        ("corpora fox.txt --encoding='a\0b'", ("encoding", "utf-8, latin-1")),
        ("corpora fox.txt --encoding=ascii --json=1", "--json takes no value"),
        ("corpora latin.txt --encoding=ascii", ("latin.txt is not ascii", "0xe9 at offset 3")),
        ("corpora fox.txt --encoding=utf-16", "fox.txt is not utf-16"),
        ("corpora fox.txt --encoding=utf-32", "fox.txt is not utf-32"),
        ("corpora latin.txt --encoding=punycode", "latin.txt is not punycode"),
        ("corpora surrogate.txt --encoding=utf-7", ("surrogate.txt", "U+D800")),
        (f"{TRAIN} --config.data.corpus=fox.txt --config.data.encoding=utf9", "'utf9'"),
        (f"{TRAIN} --config.data.corpus=fox.txt --config.data.encoding=", "encoding ''"),
    ],
    "Prompts": [
        ("sample --workdir=done --prompt=", "the prompt is empty"),
        ("sample --workdir=done --prompt=a@", ("'@' (U+0040)", "vocabulary of 4 symbols")),
        ("sample --workdir=done --prompt=a@#", ("'#' (U+0023), '@'", "drop or replace")),
        ("sample --workdir=done --prompt='a\udcff'", "U+DCFF"),
        ("sample --workdir=done --prompt='\ud800\udc00'", "U+D800"),
        ("sample --workdir=done --prompt='a\0'", "U+0000"),
        ("sample --workdir=done --prompt='a\n'", "'\\n' (U+000A)"),
        ("sample --workdir=done --prompt=🐍", "(U+1F40D)"),
        ("sample --workdir=done --prompt=zyxwvutsrqponm", "and 6 more"),
        ("sample --workdir=done --prompt=@ --unknown=drop", "no character that the model knows"),
        (
            "sample --workdir=done --prompt=@ --unknown=replace",
            ("the replacement ' '", "--replacement"),
        ),
        ("sample --workdir=done --prompt=@ --unknown=replace --replacement=", "replacement ''"),
        ("sample --workdir=done --prompt=@ --unknown=replace --replacement=ab", "'ab'"),
        ("sample --workdir=done --prompt=@ --unknown=replace --replacement=?", "'?'"),
        ("sample --workdir=done --prompt=@ --unknown=ignore", ("'ignore'", "drop", "replace")),
        ("sample --workdir=done --prompt_file=empty.txt", "the prompt is empty"),
        ("sample --workdir=done --prompt_file=mark.txt", "the prompt is empty"),
        ("sample --workdir=done --prompt_file=short.txt", "the prompt has the character 'x'"),
        ("sample --workdir=done --prompt_file=nowhere.txt", "cannot read nowhere.txt: No such"),
        ("sample --workdir=done --prompt_file=lost.txt", "cannot read lost.txt: No such"),
        ("sample --workdir=done --prompt_file=notes", "notes is a folder, not a file"),
        ("sample --workdir=done --prompt_file=/dev/zero", "not a regular file"),
        ("sample --workdir=done --prompt_file='a\0b'", "NUL byte"),
        ("sample --workdir=done --prompt_file='a\ud800'", "no file can have this name"),
        (
            "sample --workdir=done --prompt_file=latin.txt",
            ("latin.txt is not utf-8", "0xe9 at offset 3", "a prompt is read as UTF-8"),
        ),
        ("sample --workdir=done --prompt_file=picture.png", "0x80 at offset 128"),
        ("sample --workdir=done --interactive --prompt=", "the prompt is empty"),
        ("sample --workdir=done --interactive --prompt=@", "'@' (U+0040)"),
        ("sample --workdir=done --prompt=a --stop=", "stop='' is not allowed"),
        ("sample --workdir=done --prompt=a --stop=b --stop=@", ("stop='@'", "it is never drawn")),
        ("sample --workdir=done --prompt=a --stop='\\n'", "stop='\\n' has the character"),
        ("sample --workdir=done --prompt=a --stop='a\\d'", "behind a backslash stands n (newline)"),
        ("sample --workdir=done --interactive --stop=@", ("stop='@'", "it is never drawn")),
    ],
    "Texts to score": [
        ("score --workdir=done missing.txt", "cannot read missing.txt: No such file or directory"),
        ("score --workdir=done mixed", "mixed is a folder, not a file"),
        ("score --workdir=done /dev/null", "/dev/null is not a regular file"),
        ("score --workdir=done 'a\0b'", "NUL byte"),
        ("score --workdir=done empty.txt", "empty.txt is empty"),
        ("score --workdir=done mark.txt", "mark.txt is empty"),
        ("score --workdir=other one.txt --unknown=drop", ("too short to score", "it takes two")),
        ("score --workdir=done latin.txt", ("latin.txt is not utf-8", "0xe9 at offset 3")),
        ("score --workdir=done picture.png", ("picture.png is not utf-8", "0x80 at offset 128")),
        ("score --workdir=done surrogate.txt --encoding=utf-7", "lone surrogate U+D800"),
        ("score --workdir=done fox.txt --encoding=utf8000", "'utf8000' is not known to Python"),
        ("score --workdir=done fox.txt", ("'\\n' (U+000A)", "and 18 more", "--unknown=drop")),
        (
            "score --workdir=done fox.txt --unknown=replace",
            ("the replacement ' '", "--replacement"),
        ),
        ("score --workdir=done short.txt --unknown=drop", "(0 known characters)"),
        ("score --workdir=done fox.txt --unknown=ignore", ("'ignore'", "drop", "replace")),
        ("score --workdir=done fox.txt --beside=done", "--beside=done is the same run"),
        ("score --workdir=done fox.txt --beside=notes", "no run at notes"),
        ("score --workdir=done fox.txt --beside=other", "done: the text has the characters"),
        ("score --workdir=done fox.txt --context=3", "mode=stream has no context to set"),
        ("score --workdir=done fox.txt --mode=window --context=0", "context=0 is not allowed"),
        (
            "score --workdir=done fox.txt --unknown=drop --mode=sliding --context=9999",
            "context=9999 is too long: no character has so many before it",
        ),
        ("score --workdir=done fox.txt --context=x", "--context='x' is not an integer"),
        ("score --workdir=done fox.txt --checkpoint=7", "19, 38"),
        ("score --workdir=done fox.txt --weights=average", "has raw"),
        ("score --workdir=done fox.txt --html=fox.txt", "fox.txt is not a page that charlm wrote"),
        ("score --workdir=done fox.txt --html=mixed", "mixed is not a page that charlm wrote"),
        ("score --workdir=done fox.txt --html=/proc/x", "cannot write to /proc/x"),
        ("score --workdir=done fox.txt --html='a\0b'", "NUL byte"),
    ],
    "Texts to look inside with": [
        ("inspect --workdir=done --text=", "the text is empty"),
        ("inspect --workdir=done --text=a@#", ("'#' (U+0023), '@'", "drop or replace")),
        ("inspect --workdir=done --text='a\udcff'", "U+DCFF"),
        ("inspect --workdir=done --text=@ --unknown=drop", "no character that the model knows"),
        (
            "inspect --workdir=done --text=@ --unknown=replace --replacement=?",
            ("the replacement '?'", "--replacement"),
        ),
        ("inspect --workdir=done --text=a --unknown=ignore", ("'ignore'", "drop", "replace")),
        ("inspect --workdir=done --text=" + "a" * 2001, ("2001 characters", "at most 2000")),
        ("inspect --workdir=done --text=a --out=fox.txt", "cannot write the figure fox.txt/"),
        ("inspect --workdir=done --text=a --out=fox.txt/x", "cannot write the figure fox.txt/x/"),
        ("inspect --workdir=done --text=a --out=/proc/x", "cannot write the figure /proc/x/"),
        ("inspect --workdir=done --text=a --out='a\0b'", "cannot write the figure a"),
        ("inspect --workdir=inspect_a_file --text=a", ("cannot write the figure", "inspect/")),
    ],
    "Pages": [
        ("report absent", "no run in absent"),
        ("report notes", "no run in notes"),
        ("report done --out=fox.txt", "fox.txt is not a page that charlm wrote"),
        ("report done --out=mixed", "mixed is not a page that charlm wrote"),
        ("report done --out=fox.txt/x.html", "cannot write to fox.txt/x.html"),
        ("report done --out=/proc/x.html", "cannot write to /proc/x.html"),
        ("report done --out='a\0b'", "NUL byte"),
        ("report done other --out=x.html", "cannot be compared"),
        ("report other done --out=x.html", "cannot be compared"),
        ("report done done --out=x.html", "the same run"),
        ("report done --split=test --out=x.html", "has no 'test' part"),
        ("report other --split=test --out=x.html", "holds no text out"),
        ("report done --mode=fast", ("--mode='fast'", "window", "sliding", "stream")),
        ("report done --checkpoint=7 --out=x.html", "7"),
    ],
    "Numbers of sample, evaluate, verify and summary": [
        ("sample --workdir=done --prompt=a --chars=-1", "chars=-1"),
        ("sample --workdir=done --prompt=a --chars=many", "'many'"),
        ("sample --workdir=done --prompt=a --chars=1e3", "'1e3'"),
        ("sample --workdir=done --prompt=a --chars=1.5", "'1.5'"),
        (f"sample --workdir=done --prompt=a --chars={10**30}", f"chars={10**30}"),
        ("sample --workdir=done --prompt=a --num=0", "num=0"),
        ("sample --workdir=done --prompt=a --num=-1", "num=-1"),
        ("sample --workdir=done --prompt=a --num=1000000000", "num=1000000000"),
        (f"sample --workdir=done --prompt=a --num={10**30}", f"num={10**30}"),
        ("sample --workdir=done --prompt=a --seed=-1", "seed=-1"),
        ("sample --workdir=done --prompt=a --seed=4294967296", "seed=4294967296"),
        ("sample --workdir=done --prompt=a --seed=x", "'x'"),
        ("sample --workdir=done --prompt=a --scale=-1", ("scale=-1", "[0, inf]")),
        ("sample --workdir=done --prompt=a --scale=nan", ("scale=nan", "[0, inf]")),
        ("sample --workdir=done --prompt=a --scale=1,-2", ("scale=-2", "[0, inf]")),
        ("sample --workdir=done --prompt=a --scale=hot", ("'hot'", "such as 0.5,1,2")),
        ("sample --workdir=done --prompt=a --scale=", ("''", "such as 0.5,1,2")),
        ("sample --workdir=done --prompt=a --scale=1,", ("'1,'", "such as 0.5,1,2")),
        ("sample --workdir=done --prompt=a '--scale=1 2'", ("'1 2'", "such as 0.5,1,2")),
        ("sample --workdir=done --prompt=a --top_k=-1", ("top_k=-1", "0 is all")),
        ("sample --workdir=done --prompt=a --top_k=1.5", "--top_k='1.5' is not an integer"),
        ("sample --workdir=done --prompt=a --top_k=", "--top_k='' is not an integer"),
        ("sample --workdir=done --prompt=a --top_p=1.5", ("top_p=1.5", "[0, 1]")),
        ("sample --workdir=done --prompt=a --top_p=nan", ("top_p=nan", "[0, 1]")),
        ("sample --workdir=done --prompt=a --top_p=most", "--top_p='most' is not a number"),
        ("sample --workdir=done --prompt=a --top_p=0.9,0.8", "--top_p='0.9,0.8' is not a number"),
        ("sample --workdir=done --prompt=a --min_p=-0.1", ("min_p=-0.1", "[0, 1]")),
        ("sample --workdir=done --prompt=a --min_p=inf", ("min_p=inf", "[0, 1]")),
        ("sample --workdir=done --prompt=a --min_p", "--min_p has no value: write --min_p="),
        ("sample --workdir=done --prompt=a --topk=3", "did you mean --top_k?"),
        ("sample --workdir=done --interactive --chars=-1", "chars=-1"),
        ("sample --workdir=done --interactive --seed=-1", "seed=-1"),
        ("sample --workdir=done --interactive --scale=nan", "scale=nan"),
        ("sample --workdir=done --interactive --context=4", "mode=carried has no context to set"),
        ("sample --workdir=done --interactive --top_p=2", "top_p=2.0"),
        (
            "sample --workdir=done --prompt=a --layout=columns --scale=" + ",".join("1" * 99),
            ("99 columns on 80 characters", "at least 24"),
        ),
        ("sample --workdir=done --prompt=a --mode=slide", ("'slide'", "carried", "window")),
        ("sample --workdir=done --prompt=a --context=4", "mode=carried has no context to set"),
        ("sample --workdir=done --prompt=a --mode=window --context=0", "context=0"),
        ("sample --workdir=done --prompt=a --mode=window --context=-1", "context=-1"),
        (
            f"sample --workdir=done --prompt=a --mode=window --context={10**20}",
            f"context={10**20}",
        ),
        ("evaluate --workdir=done --context=0", "context=0"),
        ("evaluate --workdir=done --context=-1", "context=-1"),
        ("evaluate --workdir=done --context=x", "'x'"),
        (f"evaluate --workdir=done --context={10**30}", f"context={10**30}"),
        ("evaluate --workdir=done --mode=stream --context=4", "mode=stream has no context to set"),
        ("evaluate --workdir=done --mode=windows", ("'windows'", "window", "sliding", "stream")),
        ("evaluate --workdir=done --split=test", ("no 'test' part", "split.test_fraction")),
        ("evaluate --workdir=done --split=vaild", ("'vaild'", "train, valid")),
        ("evaluate --workdir=done --split=", ("''", "train, valid")),
        ("evaluate --workdir=other", ("no 'valid' part", "--split=train")),
        ("evaluate --workdir=other --split=test", ("no 'test' part", "--split=train")),
        ("verify --workdir=done --steps=0", ("steps=0", "at least 1")),
        ("verify --workdir=done --steps=-1", ("steps=-1", "at least 1")),
        ("verify --workdir=done --steps=all", "'all'"),
        ("summary --config=tiny.py --symbols=0", ("symbols=0", "at least 1")),
        ("summary --config=tiny.py --symbols=-1", ("symbols=-1", "at least 1")),
        ("summary --config=tiny.py --symbols=many", "'many'"),
    ],
    "Folders that are no run": [
        ("sample --workdir=nowhere --prompt=a", ("no run at nowhere", "no such folder")),
        ("sample --workdir=fox.txt --prompt=a", ("no run at fox.txt", "it is a file")),
        ("sample --workdir=fox.txt/x --prompt=a", "no run at fox.txt/x"),
        ("sample --workdir=notes --prompt=a", ("no run at notes", "no config.json")),
        ("sample --workdir=done/checkpoints --prompt=a", ("no run at", "no config.json")),
        ("sample --workdir='a\0b' --prompt=a", "NUL"),
        ("sample --workdir=" + "x" * 3000 + " --prompt=a", "x" * 300),
        ("sample --workdir='two\nlines' --prompt=a", "no such folder"),
        ("runs 'two\nlines'", "no folder two"),
        ("sample --workdir=. --prompt=a", ("no run at .", "no config.json")),
        ("evaluate --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("score --workdir=nowhere fox.txt", ("no run at nowhere", "no such folder")),
        ("inspect --workdir=nowhere --text=a", ("no run at nowhere", "no such folder")),
        ("verify --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("verify --workdir=notes", ("no run at notes", "no config.json")),
        ("replay --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("replay --workdir=fox.txt", ("no run at fox.txt", "it is a file")),
        ("replay --workdir=done", "nothing to replay"),
        ("runs nowhere", "no folder nowhere"),
        ("runs fox.txt", "no folder fox.txt"),
        ("sample --workdir=unfinished --prompt=a", ("unfinished has no checkpoint", "train it")),
        ("score --workdir=unfinished fox.txt", ("unfinished has no checkpoint", "train it")),
        ("inspect --workdir=unfinished --text=a", ("unfinished has no checkpoint", "train it")),
        ("evaluate --workdir=unfinished", ("unfinished has no checkpoint", "train it")),
        ("verify --workdir=unfinished", ("unfinished has no metrics", "train it")),
        ("verify --workdir=metrics_empty", ("metrics_empty has no metrics", "train it")),
    ],
    "Folders that cannot be trained in": [
        ("train --config=tiny.py --workdir=fox.txt", ("fox.txt is not a folder", "--workdir")),
        ("train --config=tiny.py --workdir=fox.txt/run", "fox.txt/run"),
        ("train --config=tiny.py --workdir=/proc/run", "cannot write to /proc/run"),
        ("train --config=tiny.py --workdir=notes", ("notes exists and is not a run", "--workdir")),
        ("train --config=tiny.py --workdir=notes --fresh", "notes exists and is not a run"),
        ("train --config=tiny.py --workdir=fox.txt --fresh", "fox.txt is not a folder"),
        ("train --config=tiny.py --workdir=lost.txt", "lost.txt"),
        ("train --config=tiny.py --workdir=config_gone", ("no config.json", "--workdir")),
        ("train --config=tiny.py --workdir=" + "x" * 3000, "cannot write to xxx"),
    ],
    "Another run in the folder": [
        (f"{ON_DONE} --config.seed=2", ("config.seed is 1 there and 2 here", "--fresh")),
        (
            f"{ON_DONE} --config.data.corpus=fox.txt",
            ("config.data.corpus is 'synthetic:", "there and '", "fox.txt' here", "--fresh"),
        ),
        (f"{ON_DONE} --config.model.layers=gru", ("('lstm',) there and ('gru',) here", "--fresh")),
        (f"{ON_DONE} --config.data.loader=crops", "'chunks' there and 'crops' here"),
        (f"{ON_DONE} --config.split.kind=none", "'tail' there and 'none' here"),
        (f"{ON_DONE} --config.optimizer.schedule=cosine", "'constant' there and 'cosine' here"),
        (f"{ON_DONE} --config.optimizer.epsilon_hat=true", "False there and True here"),
        (f"{ON_DONE} --config.optimizer.learning_rate=0.1", "0.001 there and 0.1 here"),
        (f"{ON_DONE} --config.train.epochs=1", "config.train.epochs is 2 there and 1 here"),
        (
            f"{ON_DONE} --config.seed=2 --config.train.epochs=1",
            "config.seed is 1 there and 2 here; config.train.epochs is 2 there and 1 here",
        ),
        (f"{ON_DONE} --init_from=other", "config.train.init_from is '' there"),
        (
            "train --config=tiny.py --workdir=fingerprint_other",
            ("is not the one that fingerprint_other was started on", "--fresh"),
        ),
        ("evaluate --workdir=fingerprint_other", "than vocabulary.json says"),
        ("verify --workdir=fingerprint_other", "has changed since"),
    ],
    "Starting from another run": [
        (f"{TRAIN} --init_from=nowhere", ("cannot start from", "nowhere", "no such folder")),
        (f"{TRAIN} --init_from=fox.txt", ("cannot start from", "it is a file")),
        (f"{TRAIN} --init_from=notes", ("cannot start from", "no config.json")),
        (f"{TRAIN} --init_from=unfinished", ("cannot start from", "no checkpoint")),
        (f"{TRAIN} --init_from=other", ("cannot start from", "config.model.hidden_size is 7")),
        (f"{TRAIN} --init_from=best_damaged", ("cannot start from", "checkpoint 38 is damaged")),
        (f"{TRAIN} --config.train.init_from=nowhere", ("cannot start from", "nowhere")),
        (f"{ON_DONE} --init_from=done", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=./notes/../done", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=elsewhere", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=done --fresh", ("the same run", "--workdir")),
        (f"{ON_DONE} --init_from=nowhere --fresh", ("cannot start from", "no such folder")),
        (
            f"{ON_DONE} --init_from=other --fresh",
            ("cannot start from", "config.model.hidden_size is 7"),
        ),
        (f"{ON_DONE} --fresh --config.data.corpus=empty.txt", "empty.txt' is empty"),
    ],
    "Checkpoints": [
        (
            "sample --workdir=done --prompt=a --checkpoint=7",
            ("'7'", "best, latest or one of 19, 38"),
        ),
        ("sample --workdir=done --prompt=a --checkpoint=first", ("'first'", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=", ("''", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=-1", ("'-1'", "19, 38")),
        ("sample --workdir=done --prompt=a --checkpoint=³", ("'³'", "19, 38")),
        ("inspect --workdir=done --text=a --checkpoint=7", ("'7'", "19, 38")),
        ("evaluate --workdir=done --checkpoint=best,latest", ("'best,latest'", "19, 38")),
        ("sample --workdir=best_damaged --prompt=a", ("checkpoint 38 is damaged", "sound", "19")),
        ("evaluate --workdir=best_damaged", ("checkpoint 38 is damaged", "sound", "19")),
        ("sample --workdir=best_note_damaged --prompt=a", ("38 is damaged", "sound", "19")),
        ("evaluate --workdir=best_note_damaged", ("38 is damaged", "sound", "19")),
        ("sample --workdir=only_one_and_damaged --prompt=a", ("38 is damaged", "sound")),
        ("sample --workdir=all_damaged --prompt=a", "is damaged"),
        ("sample --workdir=all_damaged --prompt=a --checkpoint=latest", "38 is damaged"),
        ("sample --workdir=all_damaged --prompt=a --checkpoint=19", "19 is damaged"),
        (
            "train --config=tiny.py --workdir=all_damaged",
            ("no checkpoint of all_damaged can be used", "38", "19", "--fresh"),
        ),
        (
            "train --config=tiny.py --workdir=all_damaged --config.train.epochs=3",
            ("no checkpoint of all_damaged can be used", "38", "19", "--fresh"),
        ),
        (
            "train --config=tiny.py --workdir=note_without_tally --config.train.epochs=3",
            "checkpoint 38",
        ),
        ("sample --workdir=note_without_loss --prompt=a", "checkpoint 38"),
        ("evaluate --workdir=note_of_other_arrays", "checkpoint 38"),
        (
            "sample --workdir=of_another_model --prompt=a",
            "trained on another text or other symbols",
        ),
        ("sample --workdir=symbols_more --prompt=a", ("does not fit this model", "embedding")),
        ("sample --workdir=checkpoints_a_file --prompt=a", "checkpoint"),
        ("train --config=tiny.py --workdir=checkpoints_a_file", "checkpoints"),
        ("replay --workdir=fault_damaged", ("3 is damaged", "contents.json")),
        ("evaluate --workdir=evaluation_a_file", ("cannot write to", "evaluation")),
    ],
    "Exports": [
        ("export", ("missing", "--workdir")),
        ("export done", ("missing", "--workdir")),
        ("export --workdir=done --to", "--to has no value: write --to="),
        ("export --workdir=done --to=", ("--to=''", "'safetensors'")),
        ("export --workdir=done --to=onnx", ("--to='onnx'", "'safetensors'")),
        ("export --workdir=done --out", "--out has no value: write --out="),
        ("export --workdir=done --out=", "--out is an empty text: name a folder"),
        ("export --workdir=done --json", "unknown argument --json"),
        ("export --workdir=done --config.seed=1", "--config.seed=1 means nothing"),
        ("export --workdir=nowhere", ("no run at nowhere", "no such folder")),
        ("export --workdir=unfinished", ("unfinished has no checkpoint", "train it")),
        ("export --workdir=best_damaged", ("checkpoint 38 is damaged", "sound", "19")),
        ("export --workdir=done --checkpoint=7", ("'7'", "19, 38")),
        ("export --workdir=done --weights=best", ("'best'", "average", "raw")),
        ("export --workdir=done --weights=average", ("weights='average'", "it has raw")),
        ("export --workdir=done --out=fox.txt", "cannot write to fox.txt"),
        ("export --workdir=done --out=fox.txt/x", "cannot write to fox.txt/x"),
        ("export --workdir=done --out=/proc/x", "cannot write to /proc/x"),
        ("export --workdir=done --out='a\0b'", "NUL byte"),
        ("export --workdir=done --out=" + "x" * 3000, "xxx"),
        ("export --workdir=done --out=done", "done is a run: name another folder"),
        ("export --workdir=done --out=other", "other is a run: name another folder"),
        ("export --workdir=other --out=exported", "exported/config.json is there already"),
        (
            "export --workdir=done --checkpoint=19 --out=exported",
            ("exported/model.safetensors is there already", "--out"),
        ),
        ("export --workdir=exported --checkpoint=19", ("'19'", "was exported from 38")),
        ("sample --workdir=exported --prompt=a --checkpoint=19", ("'19'", "exported from 38")),
        ("sample --workdir=exported --prompt=a --weights=average", "exported: it has raw"),
        *[
            (f"{command}exported", "exported is an exported model, not a run")
            for command in (
                "train --config=tiny.py --workdir=",
                "train --config=tiny.py --fresh --workdir=",
                "verify --workdir=",
                "compare ",
                "report ",
            )
        ],
        ("replay --workdir=exported", "nothing to replay"),
        (f"{TRAIN} --init_from=exported_other", "config.model.hidden_size is 7"),
        (f"{TRAIN} --init_from=weights_flipped", ("cannot start from", "model.safetensors")),
        *[
            (f"sample --workdir={export} --prompt=a", (f"{export}/model.safetensors", says))
            for export, says in {
                "weights_torn": "not fully covered",
                "weights_flipped": "is damaged",
                "weights_garbage": "is damaged",
                "weights_a_folder": "cannot read",
                "weights_a_link": "is a link",
            }.items()
        ],
        ("sample --workdir=weights_gone --prompt=a", "neither checkpoints/ nor model.safetensors"),
        ("sample --workdir=weights_of_another --prompt=a", "weights_of_another/config.json is not"),
        ("sample --workdir=exported_config_gone --prompt=a", "it has no config.json"),
        ("sample --workdir=exported_config_torn --prompt=a", ("config.json is damaged", "export")),
        ("sample --workdir=exported_vocabulary_gone --prompt=a", "it has no vocabulary.json"),
        ("sample --workdir=another_config --prompt=a", "another_config/config.json is not the one"),
        ("sample --workdir=another_symbol --prompt=a", "another_symbol/vocabulary.json is not"),
    ],
    "Damaged files of a run": [
        *[
            (f"sample --workdir={run} --prompt=a", f"{run}/config.json")
            for run in (
                "config_empty",
                "config_garbage",
                "config_torn",
                "config_nested",
                "config_a_list",
                "config_a_folder",
                "config_unknown",
                "config_wrong_type",
                "config_no_section",
            )
        ],
        *[
            (f"evaluate --workdir={run}", f"{run}/vocabulary.json")
            for run in (
                "vocabulary_empty",
                "vocabulary_garbage",
                "vocabulary_nested",
                "vocabulary_null",
                "symbols_number",
                "symbols_none",
                "symbols_unsorted",
                "fingerprint_number",
            )
        ],
        ("sample --workdir=vocabulary_gone --prompt=a", "vocabulary.json"),
        *[
            (f"train --config=tiny.py --workdir={run} --config.train.epochs=3", f"{run}/run.json")
            for run in (
                "run_garbage",
                "run_nested",
                "run_a_list",
                "sittings_number",
                "sittings_of_numbers",
                "sittings_without",
                "sittings_environment",
            )
        ],
        *[
            (f"verify --workdir={run}", f"{run}/run.json")
            for run in (
                "run_garbage",
                "run_nested",
                "run_a_list",
                "sittings_number",
                "sittings_of_numbers",
                "sittings_without",
                "sittings_environment",
            )
        ],
        *[
            (
                f"train --config=tiny.py --workdir={run} --config.train.epochs=3",
                f"{run}/metrics.jsonl, line 1, is not a row of metrics",
            )
            for run in (
                "metrics_garbage",
                "metrics_nested",
                "metrics_a_list",
                "metrics_missing_fields",
                "step_zero",
                "step_text",
                "loss_text",
                "hash_missing",
            )
        ],
        *[
            (f"verify --workdir={run}", f"{run}/metrics.jsonl, line 1, is not a row of metrics")
            for run in (
                "metrics_garbage",
                "metrics_nested",
                "metrics_a_list",
                "metrics_missing_fields",
                "step_zero",
                "step_text",
                "loss_text",
                "hash_missing",
            )
        ],
        *[
            (f"{command}={run}", (f"{run}/", "is a link"))
            for run in LINKED
            for command in (
                "sample --prompt=a --workdir",
                "evaluate --workdir",
                "verify --workdir",
                "train --config=tiny.py --workdir",
                "train --config=tiny.py --fresh --workdir",
            )
        ],
    ],
}

# What is asked for is too large for any machine. These run in a process whose memory is limited.
HUGE: Sequence[tuple[str, Says]] = [
    ("train --config=tiny.py --workdir=big --config.model.hidden_size=20000", "out of memory"),
    (f"{TRAIN} --config.model.hidden_size=10000000", "10000000"),
    (f"{TRAIN} --config.model.hidden_size=1000000000", "config.model.hidden_size=1000000000"),
    (f"{TRAIN} --config.model.embedding_size=1000000000", "config.model.embedding_size=1000000000"),
    (f"{TRAIN} --config.data.batch_size=268435456", "268435456"),
    (f"{TRAIN} --config.data.sequence_length=1000000000", "1000000000"),
    (f"{TRAIN} --config.train.epochs={10**18}", f"config.train.epochs={10**18}"),
    (f"{TRAIN} --config.model.layers={','.join(['lstm'] * 10_000)}", "10000 layers"),
    (f"{TRAIN} --config.split.kind=interleaved --config.split.blocks=1000000000", "1000000000"),
    (
        f"summary --config=tiny.py --symbols=80 --config.model.layers={','.join(['gru'] * 10_000)}",
        "10000 layers",
    ),
    (
        "summary --config=tiny.py --symbols=80 --config.model.hidden_size=1" + "0" * 23,
        "config.model.hidden_size=1" + "0" * 23,
    ),
    ("sample --workdir=done --prompt=a --num=10000000", "num=10000000"),
]

# Large, but it does no harm.
HARMLESS: Sequence[str] = [
    "train --config=tiny.py --workdir=made --config.train.epochs=100000000 "
    "--config.train.max_steps=3 --config.train.steps_per_dispatch=2147483647 "
    "--config.train.log_every_steps=2147483647 --config.train.evaluate_every_steps=2147483647 "
    "--config.train.patience=2147483647 --config.optimizer.warmup_steps=2147483647 "
    "--config.evaluation.context=2147483647 --config.evaluation.batch_size=2147483647 "
    "--config.split.guard=2147483647",
    "sample --workdir=done --prompt=a --chars=0",
    "sample --workdir=done --prompt=a --chars=3 --scale=1e300",
    "sample --workdir=done --prompt=a --chars=3 --scale=1e400",
    "sample --workdir=done --prompt=a --chars=3 --scale=1e-300",
    "sample --workdir=done --prompt=a --chars=3 --mode=window --context=2147483647",
    f"inspect --workdir=done --text={'abcd' * 500} --out=made",
    "score --workdir=done fox.txt --unknown=drop --json --html=made/x.html",
    "score --workdir=done fox.txt --beside=other --unknown=drop --mode=window --context=2147483647",
    "verify --workdir=done --steps=2147483647",
    "summary --config=tiny.py --symbols=1114112",
    "runs .",
]

# Field -> what it does not allow, and what the answer says is allowed. None: any text is taken.
Refused = tuple[Sequence[str], str]
COUNTS = ("-1", "2147483648", str(10**30))
NOT_POSITIVE = ("-1", "0", "nan", "inf", "-inf", "1e400")
FIELDS: Mapping[str, Refused | None] = {
    "seed": (("-1", "4294967296", str(10**30)), "in [0, 2**32)"),
    "data.corpus": (("",), "a corpus name or a path"),
    "data.encoding": None,
    "data.loader": (("", "x", "Chunks"), "one of chunks, crops, streams"),
    "data.sequence_length": ((*COUNTS, "0"), "in [1, 2**31)"),
    "data.batch_size": ((*COUNTS, "0"), "in [1, 2**31)"),
    "data.reset_probability": (("-0.1", "1.1", "nan", "inf", "1e400"), "in [0, 1]"),
    "split.kind": (("", "x", "None"), "one of tail, interleaved, none"),
    "split.valid_fraction": (
        ("-0.1", "0", "1", "nan", "inf", "1e400"),
        "between 0 and 1, exclusive",
    ),
    "split.test_fraction": (("-0.1", "0.9", "1", "nan", "inf", "1e400"), "at least 0, and below 1"),
    "split.blocks": ((*COUNTS, "0"), "in [1, "),
    "split.guard": (COUNTS, "in [0, 2**31)"),
    "split.vocabulary": (("", "x", "All"), "one of all, train"),
    "model.layers": (("", ",", "()"), "has 0 layers, not 1 to 64"),
    "model.embedding_size": ((*COUNTS, "0"), "in [1, 2**"),
    "model.hidden_size": ((*COUNTS, "0"), "in [1, 2**"),
    "model.block": (("", "x", "Bare"), "one of bare, pre_norm, post_norm"),
    "model.norm": (("", "x", "RMSNorm"), "one of layer_norm, rms_norm"),
    "model.mlp": (("", "x", "gelu"), "must be none"),
    "model.mlp_ratio": ((*NOT_POSITIVE, "65"), "above 0 and at most 64"),
    "model.position": (("", "x", "Rotary"), "one of none, learned, sinusoidal, rotary, alibi"),
    "model.max_length": ((*COUNTS, "0"), "in [1, 2**20]"),
    "model.heads": ((*COUNTS, "0"), "in [1, 2**20]"),
    "model.kv_heads": (COUNTS, "in [0, 2**20]"),
    "model.qk_norm": (("", "1", "yes", "None"), "write true or false"),
    "model.window": (COUNTS, "in [0, 2**31)"),
    "model.scan": (("", "x", "Auto"), "one of auto, sequential, associative"),
    "model.tied_embedding": (("", "1", "yes", "None"), "write true or false"),
    "model.dropout": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "model.init": (("", "x", "Keras"), "one of keras, flax, gpt2"),
    "model.zero_init": (("", "1", "yes", "None"), "write true or false"),
    "model.precision": (("", "x", "float16"), "one of float32, bfloat16"),
    "optimizer.learning_rate": ((*NOT_POSITIVE, "1e-60"), "in [1.2e-38, 1.7e+38]"),
    "optimizer.schedule": (("", "x", "Cosine"), "one of constant, cosine, wsd"),
    "optimizer.warmup_steps": (COUNTS, "in [0, 2**31)"),
    "optimizer.final_learning_rate": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.beta1": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "optimizer.beta2": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "optimizer.epsilon": ((*NOT_POSITIVE, "1e-60"), "in [1.2e-38, 1.7e+38]"),
    "optimizer.epsilon_hat": (("", "1", "yes", "None"), "write true or false"),
    "optimizer.clip_norm": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.weight_decay": (("-1", "nan", "inf", "1e400"), "in [0, 1.7e+38]"),
    "optimizer.decay_fraction": (("-0.1", "1.1", "nan", "inf", "1e400"), "in [0, 1]"),
    "optimizer.average_decay": (("-0.1", "1", "nan", "inf", "1e400"), "in [0, 1)"),
    "train.epochs": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.max_steps": (COUNTS, "in [0, 2**31)"),
    "train.steps_per_dispatch": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.segment_length": (COUNTS, "in [0, 2**31)"),
    "train.log_every_steps": ((*COUNTS, "0"), "in [1, 2**31)"),
    "train.evaluate_every_steps": (COUNTS, "in [0, 2**31)"),
    "train.patience": (COUNTS, "in [0, 2**31)"),
    "train.init_from": None,
    "evaluation.context": (COUNTS, "in [0, 2**31)"),
    "evaluation.batch_size": ((*COUNTS, "0"), "in [1, 2**31)"),
}
NO_INTEGERS = ("", "x", "1.5", "1e3", "nan", "inf", "true", "None", "0x10", "[1]", "9" * 5000)
NO_NUMBERS = ("", "x", "true", "None", "0x10", "[1]", "1,5", "1/2")


# How a command is asked, and how its answer is judged.


class Answer(NamedTuple):
    """What a command said."""

    status: int | str | None
    out: str
    err: str

    def faults(self, says: Says) -> list[str]:
        """In what it is not the one clear line that a mistake should get."""
        wanted = (says,) if isinstance(says, str) else says
        return [
            *([] if self.status == 2 else [f"status {self.status}"]),
            *([] if len(self.err.splitlines()) == 1 else ["not one line"]),
            *([] if self.err.startswith("charlm") else ["does not begin with the command"]),
            *([] if self.out == "" else [f"on standard output: {self.out!r}"]),
            *[f"does not say {text!r}" for text in wanted if text not in self.err],
            *(["shows its inside"] if "Error:" in self.err.partition(" failed: ")[0] else []),
            *([] if not Path("runs").exists() else ["left a folder runs"]),
            *([] if not Path("new").exists() else ["left a folder new"]),
        ]


class _TooSlow(BaseException):
    """Not an Exception, which something on the way might catch."""


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ask(command: str) -> Answer:
    """Run a command in this process and in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    status: int | str | None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with _limited_time():
                status = main(shlex.split(command))
        except SystemExit as stop:  # argparse's own way out
            status = stop.code
        except _TooSlow:
            status = f"no answer in {SECONDS} s"
        except Exception as error:
            status = f"traceback: {type(error).__name__}: {error}"
    return Answer(status, out.getvalue(), err.getvalue())


def _state(folder: str | Path) -> dict[str, bytes]:
    """Every path below a folder with its bytes. Locks come and go, Python may compile modules."""
    state = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            facts = entry.stat(follow_symlinks=False)
            if entry.name not in ("lock", "__pycache__"):
                changed = (facts.st_mtime_ns, facts.st_size)
                state[entry.path] = _content(entry.path, facts.st_mode, *changed)
            if entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__":
                state |= _state(entry.path)
    return state


@functools.cache
def _content(path: str, mode: int, *changed: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(path))
    return Path(path).read_bytes() if stat.S_ISREG(mode) else b""


class World(NamedTuple):
    """The folder of the commands as it was after the last of them, and a run as it was at first."""

    folder: Path
    state: dict[str, bytes]
    done: dict[str, bytes]
    listed: str
    drawn: str

    def changes(self) -> list[str]:
        """Paths that are not as they were when this was asked last."""
        before, now = dict(self.state), _state(self.folder)
        self.state.clear()
        self.state.update(now)
        return sorted(p for p in {**before, **now} if before.get(p) != now.get(p))


SAMPLE_DONE = "sample --workdir=done --prompt=abc --chars=30 --scale=0.5,2 --json"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, before = tmp_path_factory.mktemp("world"), Path.cwd()
    try:
        build_world(folder)
        listed, drawn = _listed(), ask(SAMPLE_DONE).out
        yield World(folder, _state(folder), _state("done"), listed, drawn)
    finally:
        os.chdir(before)


def _listed() -> str:
    rows = [json.loads(line) for line in ask("runs done --json").out.splitlines()]
    return json.dumps([{**row, "seconds_ago": None} for row in rows])


def _entries() -> list[tuple[str, Says]]:
    return [entry for section in CATALOGUE.values() for entry in section]


def _name(command: str) -> str:
    name = command.encode("unicode_escape").decode() or "nothing"
    return name if len(name) < 120 else f"{name[:80]}...{len(name)}"


@pytest.mark.parametrize(("command", "says"), _entries(), ids=[_name(c) for c, _ in _entries()])
def test_a_mistake_is_one_clear_line(command: str, says: Says, world: World) -> None:
    answer = ask(command)
    assert not [*answer.faults(says), *world.changes()], answer


@pytest.mark.parametrize("field", FIELDS)
def test_a_value_that_a_field_does_not_allow_is_one_clear_line(field: str, world: World) -> None:
    kind = type(load_config("tiny.py").flatten()[field])
    refused = FIELDS[field]
    values = [] if refused is None else [(value, refused[1]) for value in refused[0]]
    if kind is int:
        values += [(value, "is not an integer") for value in NO_INTEGERS]
    if kind is float:
        values += [(value, "is not a number") for value in NO_NUMBERS]
    for value, allowed in values:
        answer = ask(shlex.join([*shlex.split(TRAIN), f"--config.{field}={value}"]))
        assert not answer.faults((f"config.{field}", allowed)), (value[:40], answer)
    assert not world.changes()


def test_every_field_has_its_mistakes(world: World) -> None:
    fields = load_config("tiny.py").flatten()
    assert list(FIELDS) == list(fields)
    texts = {field for field, value in fields.items() if isinstance(value, str)}
    assert {field for field, refused in FIELDS.items() if refused is None} <= texts


def test_every_damaged_run_is_asked_for() -> None:
    commands = " ".join(command for command, _ in _entries()) + " "
    for run in (*OVERWRITTEN, *CHANGED, *LINKED, *DAMAGED, *DAMAGED_EXPORTS):
        assert f"workdir={run} " in commands or f"init_from={run} " in commands, run


def _in_a_process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    return subprocess.run(
        [sys.executable, *[os.fsencode(argument) for argument in arguments]],
        capture_output=True,
        cwd=folder,
        env={**os.environ, **cache, "PYTHONPATH": str(ROOT)},
        timeout=5 * SECONDS,
    )


REAL = [
    "",
    "trian",
    "train --config=tiny.py --workdri=x",
    "train --config=tutorail",
    "train --config=fails.py",
    f"{TRAIN} --config.sed=3",
    "corpora latin.txt --encoding=ascii",
    "runs nowhere",
    "sample --prompt=a",
    "sample --workdir=done --prompt='a\udcff'",
    f"{ON_DONE} --config.seed=2",
    f"{ON_DONE} --init_from=nowhere --fresh",
]


def test_the_real_command_says_the_same(world: World) -> None:
    says = dict(_entries())
    run = functools.partial(_in_a_process, "-m", "charlm_jax", folder=world.folder)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda command: run(*shlex.split(command)), REAL))
    for command, result in zip(REAL, done, strict=True):
        answer = Answer(result.returncode, result.stdout.decode(), result.stderr.decode())
        assert not answer.faults(says[command]), (command, answer)
        assert answer == ask(command)
    assert not world.changes()


@pytest.mark.skipif(sys.platform != "linux", reason="its memory cannot be limited")
def test_what_is_too_large_is_refused_in_one_line(world: World) -> None:
    result = _in_a_process("-m", "tests.test_errors", "--huge", folder=world.folder)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    answers = [Answer(*json.loads(line)) for line in result.stdout.splitlines()]
    for (command, says), answer in zip(HUGE, answers, strict=True):
        assert not answer.faults(says), (command[:100], answer)
    # Out of memory is found out late: the folder is there, and the mended command may have it.
    assert ask("train --config=tiny.py --workdir=big --config.train.max_steps=1").status == 0
    shutil.rmtree("big")
    assert not world.changes()


@pytest.mark.parametrize("command", HARMLESS)
def test_what_is_large_and_harmless_works(command: str, world: World) -> None:
    answer = ask(command)
    assert answer.status == 0 and "overflow" not in answer.err, answer
    shutil.rmtree("made", ignore_errors=True)
    assert not world.changes()


def test_a_finished_run_is_what_it_was_before_all_these_mistakes(world: World) -> None:
    assert _state("done") == world.done
    assert _listed() == world.listed != "[]"
    assert ask(SAMPLE_DONE).out == world.drawn != ""


def _print_catalogue() -> None:
    for title, entries in {**CATALOGUE, "Too large": HUGE}.items():
        print(f"\n{title}\n{'=' * len(title)}\n")
        for command, says in entries:
            before, answer = _state("."), ask(command)
            print(f"charlm {_name(command)}")
            for line in answer.err.splitlines():
                print(f"    {line[:900]}")
            faults = answer.faults(says)
            for stray in ("new", "big", "runs"):
                shutil.rmtree(stray, ignore_errors=True)
            for fault in [*faults, *["changed something"] * (_state(".") != before)]:
                print(f"    !! {fault}")


if __name__ == "__main__":
    if sys.platform == "linux":  # elsewhere it cannot be limited
        resource.setrlimit(resource.RLIMIT_AS, (HUGE_BYTES, HUGE_BYTES))
    if "--huge" in sys.argv:
        for huge, _ in HUGE:
            print(json.dumps(ask(huge)), flush=True)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            build_world(Path(scratch))
            _print_catalogue()
            os.chdir("/")
