"""An exported model: its weights in the safetensors format, its config and vocabulary as JSON.

    model.safetensors  the weights by path, such as `layer_0.mixer.input.kernel`
    config.json        the training config, as in a run
    vocabulary.json    the symbols and the fingerprint of the text, as in a run

The header of model.safetensors has facts about the model, as JSON under `charlm_jax`. They are one
value because the library writes several in any order, and the same export should be the same bytes.

    format       format of the export, defined in `charlm_jax.config.formats`
    version      version of charlm_jax
    checkpoint   step of the weights
    weights      `raw`, or `average` for a moving average
    fingerprint  fingerprint of text, vocabulary and split
    mixers       origins of mixers outside the package, as in run.json; absent if there are none
    sha256       hashes of the two other files, and of these facts together with the weights
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from charlm_jax._version import __version__
from charlm_jax.config.formats import NewerFormat, upgrade, with_format
from charlm_jax.core.errors import CharlmError, read_error
from charlm_jax.core.trees import describe_leaf, leaves_by_path, tree_mismatch
from charlm_jax.core.types import Params
from charlm_jax.storage.workdir import MEND_EXPORTED, Workdir, are_mixer_sources

_FACTS = {"version": str, "checkpoint": int, "weights": str, "fingerprint": str, "sha256": dict}
_DTYPES = {"F32": "float32"}


def pack(params: Params, files: Mapping[str, bytes], **facts: Any) -> bytes:
    """Return the bytes of `model.safetensors`.

    Args:
      params: weights, float32, stored bit for bit.
      files: content of the other files by name.
      **facts: checkpoint, weights, fingerprint and, if there are any, mixers, as plain values.
    """
    # The library writes raw memory, which has another order for a transposed array.
    arrays = {name: np.array(x, order="C") for name, x in _leaves_by_name(params).items()}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    about = with_format({"version": __version__, **facts, "sha256": hashes})
    hashes["weights"] = _content_hash(about, arrays)
    return save(arrays, {"charlm_jax": json.dumps(about)})


def read_exported(
    workdir: Workdir, like: Params, *, checkpoint: str, weights: str | None
) -> tuple[Params, int, str]:
    """Return the weights of an exported model, after verifying every byte.

    Args:
      workdir: folder of the export.
      like: tree whose leaves have the required shapes and dtypes.
      checkpoint: `best`, `latest` or the exported step.
      weights: `raw` or `average`; the exported kind if None.

    Returns:
      The weights, their step, and their kind, `raw` or `average`.

    Raises:
      CharlmError: a file is damaged or of another model, or has other weights than requested.
    """
    facts, arrays = _read(workdir, like)
    step, kind = facts["checkpoint"], facts["weights"]
    if checkpoint not in ("best", "latest", str(step)):
        raise CharlmError(f"no checkpoint {checkpoint!r}: {workdir.path} was exported from {step}")
    if weights not in (None, kind):
        raise CharlmError(f"{workdir.path} has no weights={weights!r}; available: {kind}")
    leaves = [jnp.asarray(arrays[name]) for name in _leaves_by_name(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), step, kind


def read_exported_mixers(workdir: Workdir) -> list[dict[str, Any]]:
    """Return the origins of an exported model's mixers outside the package.

    Raises:
      CharlmError: the file is damaged.
    """
    with _opened(workdir.exported_file) as opened:
        facts = _read_facts(workdir.exported_file, opened.metadata())
    mixers: list[dict[str, Any]] = facts.get("mixers") or []
    return mixers


def _read(workdir: Workdir, like: Params) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    file = workdir.exported_file
    with _opened(file) as opened:
        facts, names = _read_facts(file, opened.metadata()), opened.keys()
        _refuse_other_files(workdir, facts["sha256"])
        _refuse_other_arrays(workdir, {name: opened.get_slice(name) for name in names}, like)
        arrays = {name: opened.get_tensor(name) for name in names}
    if facts["sha256"].pop("weights", None) != _content_hash(facts, arrays):
        raise CharlmError(
            f"{file} is damaged: its content is not what was exported; {MEND_EXPORTED}"
        )
    return upgrade("export", facts), arrays


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open the weights; errors are `CharlmError`s that name the file."""
    try:
        with safe_open(file, framework="np") as opened:
            yield opened
    except SafetensorError as error:
        words = str(error).removeprefix("Error while deserializing header: ")
        raise CharlmError(f"{file} is damaged: {words}; {MEND_EXPORTED}") from error
    except OSError as error:
        raise read_error(file, error) from error


def _read_facts(file: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((metadata or {})["charlm_jax"])
        upgraded = upgrade("export", facts, file)
        are_sound = all(type(upgraded[name]) is kind for name, kind in _FACTS.items())
        are_sound &= are_mixer_sources(upgraded.get("mixers"))
    except NewerFormat:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CharlmError(f"{file} was not written by charlm export: {MEND_EXPORTED}") from error
    if not are_sound:
        raise CharlmError(
            f"{file} is damaged: a value in its metadata has the wrong type; {MEND_EXPORTED}"
        )
    return facts


def _refuse_other_files(workdir: Workdir, hashes: Mapping[str, str]) -> None:
    for file in (workdir.config_file, workdir.vocabulary_file):
        if hashes.get(file.name) != hashlib.sha256(file.read_bytes()).hexdigest():
            raise CharlmError(
                f"{file} is not the one that {workdir.exported_file.name} was exported with: "
                f"{MEND_EXPORTED}"
            )


def _refuse_other_arrays(workdir: Workdir, slices: Mapping[str, Any], like: Params) -> None:
    there = {
        name: describe_leaf(_DTYPES.get(x.get_dtype(), x.get_dtype()), x.get_shape())
        for name, x in slices.items()
    }
    here = {name: describe_leaf(x.dtype, x.shape) for name, x in _leaves_by_name(like).items()}
    if mismatch := tree_mismatch(there, here):
        raise CharlmError(
            f"{workdir.exported_file} does not match its {workdir.config_file.name}: {mismatch}"
        )


def _content_hash(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of the facts, with the other files' hashes, and of all weights by name."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()


_leaves_by_name = functools.partial(leaves_by_path, separator=".")
