"""Every `charlm` command of the README and the docs is accepted, and its config is valid."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from charlm_jax.cli import main
from charlm_jax.cli.commands import COMMANDS
from charlm_jax.config.loading import load_config
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
# A message begins with the command and a colon; & runs a command beside the next.
COMMAND = re.compile(r"(?:^|[ |/])charlm (?P<arguments>(?![a-z]+:).*?)(?: &)?$")


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of the commands in a page's blocks."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines() if language in ("", "bash") else []
        for match in filter(None, map(COMMAND.search, lines)):
            yield shlex.split(match["arguments"], comments=True)


def test_there_is_an_example_of_every_command() -> None:
    found = {arguments[0] for page in PAGES for arguments in commands(page)}
    assert found == COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[argparse.Namespace] = []
    for module in COMMANDS.values():
        monkeypatch.setattr(module, "run", taken.append)
    for arguments in commands(page):
        modules = [flag for flag in arguments if flag.startswith("--allow_module=")]
        assert main([flag for flag in arguments if flag not in modules]) == 0, arguments
        options = taken.pop()
        if hasattr(options, "config") and not options.config.endswith(".py"):
            load_config(options.config, options.overrides)
