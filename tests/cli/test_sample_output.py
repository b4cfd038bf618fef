"""Tests of the output of `charlm sample`."""

import json
from collections.abc import Iterator

import pytest

from charlm_jax.cli.commands.sample_output import print_json, sample_infos
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.sampling.stop_strings import Chunk


def test_texts_are_printed_as_json_as_soon_as_they_and_those_before_have_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed: list[list[str]] = []

    def lines() -> list[str]:
        return [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]

    def chunks() -> Iterator[list[Chunk]]:
        yield [Chunk("a"), Chunk("b", has_ended=True), Chunk("c")]
        printed.append(lines())
        yield [Chunk("a", has_ended=True), Chunk("", has_ended=True), Chunk("c")]
        printed.append(lines())
        yield [Chunk("", has_ended=True), Chunk("", has_ended=True), Chunk("", has_ended=True)]

    infos = sample_infos(SamplingParams(), "x", scales=[1.0], samples=3)
    print_json(infos, chunks(), Vocabulary.from_text("abcx"))
    printed.append(lines())
    assert printed == [[], ["aa", "b"], ["cc"]]
