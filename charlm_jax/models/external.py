"""Mixers of one's own: classes outside the package, named in a config as `my_module:MyMixer`.

The class is a Linen module with the interface of `charlm_jax.models.mixers`, and a class method
`from_config(model, width)` that returns the mixer. An installed package can give it a short name:
an entry point of the group `charlm_jax.mixers`.

A config may come from somebody else, so a name in it never imports a module. The module must be

- imported in this process already: by a script, a notebook, or a config file;
- allowed: `--allow_module=my_module`, or `--allow_module=path/to/my_module.py`; or
- the module of an installed entry point, which is imported when it is named.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

from flax import linen as nn

from charlm_jax.config.schema import ModelConfig
from charlm_jax.core.errors import CharlmError, describe_exception
from charlm_jax.core.import_path import first_on_path, without_current_folder

GROUP = "charlm_jax.mixers"

_FIELD = "config.model.layers"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LAYER = re.compile(rf"(?P<module>{_MODULE.pattern}):(?P<name>[^\W\d]\w*)")


class MixerSource(NamedTuple):
    """Origin of a mixer's class.

    Attributes:
      layer: name in `config.model.layers`.
      module: module that defines the class.
      file: absolute path of the module; None for a module without a file, such as a notebook.
      sha256: hash of the file's bytes; None without a file.
    """

    layer: str
    module: str
    file: str | None
    sha256: str | None


def allow_module(module: str) -> None:
    """Import a module, so that configs may name its mixers.

    Args:
      module: name of an importable module, or path of a file ending in .py, which is imported under
        its stem. While it is executed, its folder is first on `sys.path`.

    Raises:
      CharlmError: there is no such module, another one has its name, or it fails.
    """
    if module.endswith(".py"):
        _import_file(module)
    elif _MODULE.fullmatch(module):
        _import_name(module)
    else:
        raise CharlmError(
            f"--allow_module={module!r} is not a module: it must be a name such as my_module, or a "
            f"file ending in .py"
        )


def _import_name(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):  # one that the module imports
            raise _failed(name, error) from error
        raise CharlmError(
            f"--allow_module={name}: no module {missing!r} can be imported: give its file "
            f"(--allow_module=path/to/my_module.py), or put its folder on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _import_file(path: str) -> None:
    file = Path(os.path.expanduser(path))
    name = file.stem
    if not os.path.isfile(file):
        raise CharlmError(f"--allow_module={path}: there is no such file")
    if not _MODULE.fullmatch(name) or "." in name:
        raise CharlmError(
            f"--allow_module={path}: {name!r} cannot be the name of a module: rename the file"
        )
    if name in sys.modules:
        loaded = getattr(sys.modules[name], "__file__", None)
        if loaded is None or not os.path.isfile(loaded) or not os.path.samefile(loaded, file):
            origin = "" if loaded is None else f", from {loaded}"
            raise CharlmError(
                f"--allow_module={path}: another module {name!r} is already imported{origin}: "
                f"rename the file"
            )
        return
    source = importlib.util.spec_from_file_location(name, file.resolve())
    assert source is not None and source.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(source)
    try:
        with first_on_path(file.resolve().parent):
            source.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, (Exception, SystemExit)):
            raise _failed(path, error) from error
        raise


def _failed(module: str, error: BaseException) -> CharlmError:
    return CharlmError(f"--allow_module={module} failed: {describe_exception(error)}")


def installed_mixers() -> dict[str, str]:
    """Return the entry points of installed packages: short name -> `module:Class`.

    The current folder is not searched: only what was installed counts.

    Raises:
      CharlmError: two packages declare the same name.
    """
    with without_current_folder():
        found = importlib.metadata.entry_points(group=GROUP)
    layers: dict[str, str] = {}
    for name, value in dict.fromkeys((point.name, point.value) for point in found):
        if name in layers:
            raise CharlmError(
                f"two installed packages have a mixer {name!r} ({layers[name]}, {value}): name one "
                f"of these in config.model.layers"
            )
        layers[name] = value.replace(" ", "")
    return layers


def find_class(layer: str) -> type[nn.Module]:
    """Find the class that `module:Class` names. Nothing is imported but an installed entry point.

    Raises:
      CharlmError: the module may not be used, or it has no such mixer.
    """
    match = _LAYER.fullmatch(layer)
    if match is None:
        raise CharlmError(
            f"{_FIELD}={layer!r} is not allowed: it must be module:Class, such as my_module:MyMixer"
        )
    name, module_name = match["name"], match["module"]
    module = sys.modules.get(module_name)
    if module is None:
        module = _import_installed(layer, module_name)
    # `vars` and not `getattr`: a module's own `__getattr__` may import.
    values = vars(module) if isinstance(module, types.ModuleType) else {}
    reason = _ineligible(values.get(name), name, module_name)
    if reason is None:
        mixer: type[nn.Module] = values[name]
        return mixer
    mixers = [key for key, value in values.items() if not _ineligible(value, key, module_name)]
    known = f"its mixers are {', '.join(mixers)}" if mixers else "the module defines no mixer"
    raise CharlmError(f"{_FIELD}={layer!r} is not a mixer: {reason}; {known}")


def _import_installed(layer: str, module: str) -> types.ModuleType:
    """Import the module of an installed entry point; refuse any other."""
    if module not in {value.partition(":")[0] for value in installed_mixers().values()}:
        raise CharlmError(
            f"{_FIELD}={layer!r} needs module {module}, which is not imported, and a name alone "
            f"imports nothing: if you trust it, give its file "
            f"(--allow_module=path/to/{module.rpartition('.')[2]}.py), its name if Python can "
            f"import it (--allow_module={module}), or import it first in Python"
        )
    try:
        with without_current_folder():
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise CharlmError(
            f"{_FIELD}={layer!r}: installed module {module} failed: {describe_exception(error)}"
        ) from error


def _ineligible(value: object, name: str, module: str) -> str | None:
    """Return why a value of a module may not be built as a mixer; None if it may.

    Being defined in the named module and having `from_config` keep a config from calling anything
    else that happens to be imported.
    """
    if value is None:
        return f"module {module} has no class {name}"
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return f"{name} of module {module} is not a subclass of flax.linen.Module"
    if value.__module__ != module:
        return f"{name} is defined in another module: name {value.__module__}:{value.__name__}"
    if not callable(getattr(value, "from_config", None)):
        return f"{name} has no class method from_config(model, width)"
    return None


def build_external(
    layer: str, mixer_class: type[nn.Module], model: ModelConfig, width: int
) -> nn.Module:
    """Build a mixer of a class outside the package.

    Args:
      layer: name in `config.model.layers`, for error messages.
      mixer_class: class that it names; see `find_class`.
      model: config of the model, passed to `from_config`.
      width: width of the layer's input, passed to `from_config`.

    Raises:
      CharlmError: `from_config` fails, or returns something that is not a mixer, or a mixer with a
        `project` of another meaning.
    """
    from_config: Any = mixer_class.from_config  # type: ignore[attr-defined]
    try:
        mixer = from_config(model, width)
    except CharlmError:
        raise
    except (Exception, SystemExit) as error:
        raise CharlmError(
            f"{_FIELD}={layer!r}: from_config failed: {describe_exception(error)}"
        ) from error
    if not isinstance(mixer, nn.Module):
        kind = type(mixer).__name__
        raise CharlmError(
            f"{_FIELD}={layer!r}: from_config returned {kind}: it must return a flax.linen.Module"
        )
    is_there = {
        "__call__": callable(mixer),
        "initial_state": callable(getattr(type(mixer), "initial_state", None)),
    }
    for method in (method for method, present in is_there.items() if not present):
        raise CharlmError(f"{_FIELD}={layer!r}: {type(mixer).__name__} has no method {method}")
    has_rest = any(callable(getattr(mixer, name, None)) for name in ("mix", "mix_ids"))
    if hasattr(mixer, "project") and not (callable(mixer.project) and has_rest):
        raise CharlmError(
            f"{_FIELD}={layer!r}: {type(mixer).__name__} has a `project` that is not the first of "
            f"the methods project(x) and mix(z, state): give it another name"
        )
    return mixer


def mixer_source(layer: str, mixer_class: type[nn.Module]) -> MixerSource:
    """Return the origin of a layer's class, with the hash of the file as it is now."""
    module = mixer_class.__module__
    file = getattr(sys.modules[module], "__file__", None)
    if file is None or not os.path.isfile(file):
        return MixerSource(layer, module, None, None)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return MixerSource(layer, module, os.path.abspath(file), digest)
