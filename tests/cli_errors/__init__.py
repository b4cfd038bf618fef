"""Every mistake that we could think of, and the one line that it gets.

`python -m tests.cli_errors` prints the whole catalogue, each command and its line, for a person to
read. The commands run in a folder that `world.build_world` makes.
"""

from collections.abc import Mapping, Sequence

from tests.cli_errors.bad_arguments import TYPED
from tests.cli_errors.bad_files import FOUND
from tests.cli_errors.runner import Says

# What is typed behind `charlm`, and what the answer must say.
CATALOGUE: Mapping[str, Sequence[tuple[str, Says]]] = {**TYPED, **FOUND}


def name_of(command: str) -> str:
    """A command on one line, shortened if it is very long."""
    name = command.encode("unicode_escape").decode() or "nothing"
    return name if len(name) < 120 else f"{name[:80]}...{len(name)}"
