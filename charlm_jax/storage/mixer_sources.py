"""Mixers outside the package: the origins that a run records, and the classes in this process.

Reading a run imports nothing for it; `charlm_jax.models.external` says what may be used.
"""

from collections.abc import Sequence

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.caller_warnings import warn_caller
from charlm_jax.core.errors import CharlmError
from charlm_jax.models.external import MixerSource
from charlm_jax.models.mixers import external_layers, external_sources, find_external
from charlm_jax.storage.checkpoint import Checkpoints
from charlm_jax.storage.safetensors_format import read_exported_mixers
from charlm_jax.storage.sessions import sessions_until
from charlm_jax.storage.workdir import Workdir


def recorded_mixers(workdir: Workdir, model: ModelConfig) -> tuple[MixerSource, ...]:
    """Return the origins that a run or an exported model records of mixers outside the package.

    Args:
      workdir: folder that is read.
      model: config of its model; nothing is read for one of the package's own layers.

    Raises:
      CharlmError: the file that records them is damaged.
    """
    if not external_layers(model):
        return ()
    if workdir.is_exported:
        recorded = read_exported_mixers(workdir)
    else:
        facts, saved = workdir.read_facts(), Checkpoints(workdir.checkpoints).steps()
        recorded = facts.get("mixers") or []
        for session in sessions_until(facts, saved[-1]) if saved else ():
            recorded = session.get("mixers") or recorded
    return tuple(MixerSource(**source) for source in recorded)


def find_recorded_mixers(workdir: Workdir, model: ModelConfig) -> tuple[type, ...]:
    """Find the mixers outside the package that a run or an exported model needs.

    A file that has changed since is a warning, attributed to the caller of the caller.

    Args:
      workdir: folder that is read.
      model: config of its model.

    Returns:
      Classes of the mixers, each once; empty for a model of the package's own layers.

    Raises:
      CharlmError: a mixer's module may not be used; the message has what the folder records.
    """
    recorded = recorded_mixers(workdir, model)
    by_layer = {source.layer: source for source in recorded}
    found = []
    for layer in external_layers(model):
        try:
            found.append(find_external(layer))
        except CharlmError as error:
            record = _describe_record(by_layer.get(layer))
            raise CharlmError(f"{workdir.path} cannot be read: {error} ({record})") from error
    for change in source_changes(recorded, external_sources(model)):
        warn_caller(f"{workdir.path}: {change}")
    return tuple(found)


def source_changes(before: Sequence[MixerSource], now: Sequence[MixerSource]) -> list[str]:
    """Describe the modules whose files are not those that were recorded.

    Args:
      before: recorded origins.
      now: origins in this process.
    """
    recorded = {source.layer: source for source in before}
    return [
        f"module {source.module} of layer {source.layer} has changed: the run was trained with "
        f"{_describe_file(recorded[source.layer])}, and this is {_describe_file(source)}"
        for source in now
        if source.layer in recorded and recorded[source.layer].sha256 not in (None, source.sha256)
    ]


def _describe_file(source: MixerSource) -> str:
    return "no file" if source.file is None else f"{source.file}, sha256 {source.sha256}"


def _describe_record(source: MixerSource | None) -> str:
    if source is None:
        return "no file is recorded"
    return f"recorded: module {source.module}, {_describe_file(source)}"
