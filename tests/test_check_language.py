"""The check of `make lint` finds the faults that it is there for, and no others."""

import pytest

from tests.check_language import Docstring, docstrings, faults

SOURCE = '''"""What a module is for."""

def build(size, rate):
    """Build a thing.

    Args:
      size: of the thing.
      rate: learning rate, a number of (0, 1);
        of which most are small.

    Raises:
      CharlmError: of course.
    """

class Thing:
    """A thing of its own kind."""
'''


def _plain(count: int) -> list[Docstring]:
    return [Docstring(f"plain.py:{line}", "Return the sum.") for line in range(count)]


def test_headless_clauses_and_relative_arguments_are_faults() -> None:
    found = [*docstrings(SOURCE, "a.py")]
    assert [docstring.text.splitlines()[0] for docstring in found] == [
        "What a module is for.",
        "Build a thing.",
        "A thing of its own kind.",
    ]
    assert faults(found) == [
        "a.py:4: size: of the thing.",
        "a.py:1: What a module is for.",
        "1 of 3 docstrings begin with a headless clause: at most 2% may",
    ]


@pytest.mark.parametrize(("plain", "is_fault"), [(48, True), (49, False)])
def test_few_headless_clauses_are_allowed(plain: int, is_fault: bool) -> None:
    headless = Docstring("a.py:1", "Whether it fits.")
    assert bool(faults([headless, *_plain(plain)])) == is_fault


@pytest.mark.parametrize("start", ["of a run", "Likewise.", "see there", "as in `f`", "as for `f`"])
def test_an_argument_is_described_by_what_it_is(start: str) -> None:
    docstring = Docstring("a.py:1", f"Return it.\n\nAttributes:\n  x: {start}")
    assert faults([docstring, *_plain(60)]) == [f"a.py:1: x: {start}"]
