"""Print the catalogue, or the answers to what is too large for any machine."""

import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

from tests.cli_errors import CATALOGUE, name_of
from tests.cli_errors.bad_arguments import HUGE
from tests.cli_errors.runner import ask
from tests.cli_errors.workspace import build_world, state_of

HUGE_BYTES = 6 * 2**30  # address space of this process


def _print_catalogue() -> None:
    for title, entries in {**CATALOGUE, "Too large": HUGE}.items():
        print(f"\n{title}\n{'=' * len(title)}\n")
        for command, says in entries:
            before, answer = state_of("."), ask(command)
            print(f"charlm {name_of(command)}")
            for line in answer.err.splitlines():
                print(f"    {line[:900]}")
            faults = answer.faults(says)
            for stray in ("new", "big", "runs"):
                shutil.rmtree(stray, ignore_errors=True)
            for fault in [*faults, *["changed something"] * (state_of(".") != before)]:
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
