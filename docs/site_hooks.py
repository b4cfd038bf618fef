"""Pages of the site that are generated: commands, configs, config fields, files of the root folder.

mkdocs calls these functions; see `hooks` in mkdocs.yml. The environment variable MODEL_PAGE names a
page of `charlm export --to=html` for the site; there is none without it.
"""

import ast
import contextlib
import io
import os
import posixpath
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from charlm_jax.cli import main
from charlm_jax.cli.commands import COMMANDS
from charlm_jax.config.loading import shipped_configs, shipped_names

ROOT = Path(__file__).parent.parent

# A link that goes up a folder.
_UPWARD = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+(?!docs/)[^)]*)\)")

# The contents of a page, for a Git host; the site has them in its margin.
_CONTENTS = re.compile(r"(?:^- \[[^\]]+\]\(#[^)]*\)\n)+\n", flags=re.MULTILINE)

_FIELD = re.compile(r"    config\.(?P<name>[\w.]+) = (?P<value>.+)")
_SECTION = re.compile(r"    config\.(?P<name>\w+) = ConfigDict\(\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/cli.md": commands_page(),
        "reference/configs.md": configs_page(),
        "reference/config.md": fields_page(),
        "contributing.md": root_page("CONTRIBUTING.md"),
        "changelog.md": root_page("CHANGELOG.md"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    if model := os.environ.get("MODEL_PAGE"):
        files.append(File.generated(config, "model.html", abs_src_path=os.path.abspath(model)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Adapt a page to the site.

    Links to source files become plain text, the list of the page's sections is left out, and the
    page of a model is linked if there is one.
    """
    if page.file.src_uri == "playground.md" and os.environ.get("MODEL_PAGE"):
        link = "**[Open a model](model.html)** that runs in your browser.\n\n"
        markdown = markdown.replace("## Make one\n", f"{link}## Make one\n", 1)

    def on_site(link: re.Match[str]) -> str:
        """Return a link as it is, or its text if a Git host can follow it and the site cannot."""
        path = posixpath.join(posixpath.dirname(page.file.src_uri), link["target"])
        return link["text"] if posixpath.normpath(path).startswith("../") else link[0]

    return _UPWARD.sub(on_site, _CONTENTS.sub("", markdown))


def commands_page() -> str:
    """Return the help text of every command."""
    parts = ["# Commands", "", _help_text()]
    for name in COMMANDS:
        parts += [f"## charlm {name}", "", _help_text(name)]
    return "\n".join(parts)


def configs_page() -> str:
    """Return the header of every config that comes with the package."""
    parts = ["# Configs", "", "Each is the argument of `--config`.", ""]
    for name in shipped_names():
        source = (shipped_configs() / f"{name}.py").read_text(encoding="utf-8")
        parts += [f"## {name}", "", _as_markdown(ast.get_docstring(ast.parse(source)) or ""), ""]
    return "\n".join(parts)


def fields_page() -> str:
    """Return the fields of `configs/base.py` with their defaults and comments."""
    parts = ["# Config fields", "", "Set one with `--config.FIELD=VALUE`.", ""]
    comment: list[str] = []
    for line in (shipped_configs() / "base.py").read_text(encoding="utf-8").splitlines():
        if match := _SECTION.fullmatch(line):
            parts += [f"## {match['name']}", ""]
        elif match := _FIELD.fullmatch(line):
            parts += [f"`{match['name']} = {match['value']}`", "", *comment, ""]
        if line.startswith("    # "):
            comment.append(line.removeprefix("    # "))
        else:
            comment = []
    return "\n".join(parts)


def root_page(name: str) -> str:
    """Return a Markdown file of the root folder, with links as seen from docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def _help_text(*command: str) -> str:
    printed = io.StringIO()
    with (
        patch.dict(os.environ, COLUMNS="80"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    return f"```text\n{printed.getvalue().rstrip()}\n```\n"


def _as_markdown(docstring: str) -> str:
    """Return a docstring as Markdown; its indented lines are code already."""
    lines = docstring.splitlines()
    return "\n".join(x if x.startswith("    ") else x.replace("<", "&lt;") for x in lines)
