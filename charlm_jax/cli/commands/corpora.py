"""`charlm corpora`."""

import argparse
import dataclasses
import json

from charlm_jax.cli.output import show
from charlm_jax.core.errors import CharlmError

HELP = "List the available corpora, or describe one."


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add = command.add_argument
    add("name", nargs="?", metavar="NAME", help="corpus name, file, folder or glob")
    add("--encoding", default="utf-8", help="encoding of the files (default: utf-8)")
    add(
        "--unit",
        choices=("characters", "bytes"),
        default="characters",
        help="read characters, or the bytes of the files as they are (default: characters)",
    )
    add("--json", action="store_true", help="print one JSON object, or a list of them")


def run(options: argparse.Namespace) -> None:
    """List the known corpora, or describe one."""
    from charlm_jax.data.corpora import is_registered, joined_parts, list_corpora, load_corpus
    from charlm_jax.data.download import DownloadProgress

    if options.name is None:
        if (options.encoding, options.unit) != ("utf-8", "characters"):
            raise CharlmError("--encoding and --unit describe one text: name it")
        rows = list_corpora()
        if options.json:
            show(json.dumps([dataclasses.asdict(row) for row in rows]))
            return
        for row in rows:
            show(f"{row.name:<18} {row.characters:>10,}  {row.state}")
            show(f"{'':<18} {row.description} ({row.licence})")
        return
    if options.unit == "bytes" and options.encoding != "utf-8":
        raise CharlmError(f"--encoding={options.encoding} cannot be used with --unit=bytes")
    if options.encoding != "utf-8" and is_registered(options.name):
        raise CharlmError(f"--encoding is for files: {options.name} has its own")
    corpus = load_corpus(
        options.name, encoding=options.encoding, unit=options.unit, progress=DownloadProgress()
    )
    facts = {
        **corpus.facts,
        "name": corpus.name,
        corpus.unit: corpus.characters,
        "symbols": corpus.symbols,
        "sha256": corpus.sha256,
        "source": corpus.source,
        "text_sha256": corpus.text_sha256,
    }
    if parts := joined_parts(options.name):
        facts["joined_parts"] = str(parts)
    if options.json:
        show(json.dumps({**facts, "left_out": corpus.left_out}))
        return
    for name, value in facts.items():
        show(f"{name:<12} {value}")
    if corpus.left_out:
        show(corpus.left_out)
