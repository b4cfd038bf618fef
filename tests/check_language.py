"""Base rates of the project's prose: `python -m tests.check_language`, part of `make lint`.

A docstring begins with a verb, "Returns" or a noun phrase, not with a headless clause ("What the
model draws"), and the description of an argument names what it is, not what it is "of".
"""

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDERS = ("charlm_jax", "configs", "experiments", "benchmarks", "docs")

HEADLESS = re.compile(r"(What|How|Whether|Where|Which|Who|Of|By|The same|Those|Likewise)\b")
MOST_HEADLESS = 0.02  # of all docstrings

# A line of a section, such as `  dropout: probability that a unit is dropped`.
ENTRY = re.compile(r"^ {2,}(?P<name>\*{0,2}\w+)(?: \([^)]*\))?: (?P<text>.+)$")
SECTIONS = ("Args:", "Arguments:", "Attributes:")
RELATIVE = re.compile(r"(of |likewise|see there|as in |as for )", re.IGNORECASE)


class Docstring(NamedTuple):
    """A docstring and its position.

    Attributes:
      place: file and line.
      text: its content, without common indentation.
    """

    place: str
    text: str


def docstrings(source: str, name: str) -> Iterator[Docstring]:
    """Yield the docstrings of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Docstring(f"{name}:{node.body[0].lineno}", text)


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and description of a docstring's arguments and attributes."""
    is_section = False
    for line in text.splitlines():
        if line and not line.startswith(" "):
            is_section = line.strip() in SECTIONS
        elif is_section and (match := ENTRY.match(line)):
            yield match["name"], match["text"]


def faults(found: Sequence[Docstring]) -> list[str]:
    """Return what is wrong with the docstrings, a line for each fault; none if all is well."""
    relative = [
        f"{docstring.place}: {name}: {text}"
        for docstring in found
        for name, text in entries(docstring.text)
        if RELATIVE.match(text)
    ]
    headless = [
        f"{docstring.place}: {docstring.text.splitlines()[0]}"
        for docstring in found
        if HEADLESS.match(docstring.text)
    ]
    if len(headless) <= MOST_HEADLESS * len(found):
        return relative
    share = f"{len(headless)} of {len(found)} docstrings begin with a headless clause"
    return [*relative, *headless, f"{share}: at most {MOST_HEADLESS:.0%} may"]


def main() -> int:
    """Check all Python files but the tests; returns the exit status."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    found = [
        docstring
        for file in files
        for docstring in docstrings(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
    ]
    lines = faults(found)
    print("\n".join(lines) or f"{len(found)} docstrings in {len(files)} files")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
