"""A protocol is one value: it scores, names, saves and refuses the same thing everywhere."""

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation import EvalProtocol, Sliding, Stream, Window
from charlm_jax.evaluation.protocol import all_positions, build_protocol
from charlm_jax.evaluation.results import Evaluation, EvaluationKey

numbers = st.integers(1, 2**31 - 1)
protocols = st.one_of(
    st.builds(Window, numbers),
    st.builds(Sliding, numbers, st.integers(0, 2**31 - 1)),
    st.builds(Stream, st.none() | numbers),
)
parts = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4)


def _part(shape: list[tuple[int, int]], start: int) -> tuple[range, ...]:
    part = []
    for length, gap in shape:
        part.append(range(start, start + length + 1))
        start += length + 1 + gap
    return tuple(part)


def _key(protocol: EvalProtocol, weights: str = "raw") -> EvaluationKey:
    return EvaluationKey(protocol, "valid", "f", 3, weights, "h", split_characters=90)


@given(parts, st.integers(0, 1), st.integers(1, 9), st.integers(0, 40))
def test_a_part_is_thinned_to_some_of_its_windows(
    shape: list[tuple[int, int]], start: int, context: int, most: int
) -> None:
    part, window = _part(shape, start), Window(context)
    found, positions_N = window.spread(part, most=most), window.positions(part)
    if most == 0 or len(positions_N) <= most:
        assert found == part
        return
    windows = [set(x) for x in window.read_stretches(part)]
    assert all(any(set(x) <= w and min(x) == min(w) for w in windows) for x in found)
    kept = [n for x in found for n in x]
    assert 0 < len(kept) == len(set(kept)) <= most
    if most >= context:  # whole windows
        assert all(set(x) in windows for x in found)


def test_windows_are_kept_over_the_whole_part() -> None:
    found = Window(10).spread((range(1, 1001), range(2000, 3000)), most=500)
    starts = [x.start for x in found]
    assert len(found) == 50 and all(len(x) == 10 for x in found)
    assert {b - a for a, b in itertools.pairwise(starts)} == {40, 1039}
    assert starts[0] == 21 and found[-1].stop == 2980 + 10


@given(protocols, st.sampled_from(["raw", "average"]))
def test_a_note_gives_the_evaluation_back(protocol: EvalProtocol, weights: str) -> None:
    evaluation = Evaluation(_key(protocol, weights), 1.25, 1.8, 9, 1.7)
    fields = json.loads(json.dumps(evaluation.to_json()))
    assert Evaluation.from_json(fields) == evaluation
    for name in fields:
        less = {other: value for other, value in fields.items() if other != name}
        if name not in ("context", "targets"):
            with pytest.raises((CharlmError, TypeError)):
                Evaluation.from_json(less)
    with pytest.raises(TypeError):
        Evaluation.from_json({**fields, "other": 1})


@given(protocols)
def test_numpy_integers_are_stored_as_those_of_python(protocol: EvalProtocol) -> None:
    fields = {name: value for name, value in vars(protocol).items() if value is not None}
    same = type(protocol)(**{name: np.int64(value) for name, value in fields.items()})
    assert same == protocol and {type(getattr(same, name)) for name in fields} <= {int}
    note = Evaluation(_key(same), 1.25, 1.8, 9, 1.7).to_json()
    assert Evaluation.from_json(json.loads(json.dumps(note))).key.protocol == protocol


@given(protocols, protocols)
def test_different_protocols_have_different_files_and_descriptions(
    one: EvalProtocol, other: EvalProtocol
) -> None:
    assert (one == other) == (_key(one).file_name == _key(other).file_name)
    if one.targets == other.targets:
        assert (one == other) == (str(one) == str(other))


@pytest.mark.parametrize(
    ("context", "targets", "block"), [(1, 400, 80), (1000, 0, 1000), (1000, 10_000, 1000)]
)
def test_a_block_has_1000_characters_of_the_text(context: int, targets: int, block: int) -> None:
    protocol = Sliding(context, targets)
    positions_P = protocol.positions((range(5000),))
    key = EvaluationKey(protocol, "valid", "f", 3, "raw", "h", split_characters=4999)
    evaluation = Evaluation(key, 1.25, 1.8, len(positions_P), 1.7)
    assert evaluation.block == block
    assert evaluation.block_characters == 1000
    assert positions_P[block] - positions_P[0] == pytest.approx(1000, abs=1)


def test_the_names_of_files_are_those_of_saved_evaluations() -> None:
    names = {
        Window(40): "valid_window_40_step_3.npy",
        Sliding(40, 9): "valid_sliding_40_at_9_step_3.npy",
        Sliding(40, 0): "valid_sliding_40_at_all_step_3.npy",
        Stream(): "valid_stream_step_3.npy",
        Stream(40): "valid_stream_40_step_3.npy",
    }
    assert {protocol: _key(protocol).file_name for protocol in names} == names
    assert _key(Stream(), "average").file_name == "valid_stream_average_step_3.npy"


@given(parts, st.integers(0, 3), st.integers(1, 12))
def test_window_and_stream_score_every_character_once(
    shape: list[tuple[int, int]], start: int, context: int
) -> None:
    part = _part(shape, start)
    expected = [n for stretch in part for n in stretch if n > 0]
    for protocol in (Window(context), Stream(context)):
        assert protocol.positions(part).tolist() == expected
        read = protocol.read_stretches(part)
        assert all_positions(read).tolist() == expected
        assert protocol.longest_read(part) == max(len([n for n in x if n > 0]) for x in read)


@given(parts, st.integers(1, 8), st.integers(0, 40))
def test_sliding_scores_characters_with_enough_before_them(
    shape: list[tuple[int, int]], context: int, targets: int
) -> None:
    part = _part(shape, context)
    positions_P = Sliding(context, targets).positions(part)
    everything = all_positions(part)
    assert len(positions_P) == min(targets or len(everything), len(everything))
    assert (positions_P >= context).all() and np.isin(positions_P, everything).all()
    assert Sliding(context, targets).longest_read(part) == context


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "slide"}, "mode='slide' is not known: it must be window, sliding or stream"),
        ({"context": None}, "mode=window needs a context"),
        ({"context": 0}, "context=0 is not allowed"),
        ({"mode": "sliding", "context": -1}, "context=-1 is not allowed"),
        ({"mode": "sliding", "targets": -1}, "targets=-1 is not allowed"),
        ({"mode": "stream", "context": 0}, "context=0 is not allowed"),
    ],
)
def test_impossible_protocols_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(CharlmError, match=message):
        build_protocol(**{"mode": "window", "context": 8, **fields})


def test_a_protocol_is_a_value() -> None:
    assert Sliding(4) == build_protocol("sliding", context=4) != Sliding(4, 9)
    assert len({Window(4), Window(4), Stream(4), Stream(4)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Window(4).context = 5  # type: ignore[misc]


def test_protocols_and_sampling_params_are_there_without_jax() -> None:
    script = (
        "import sys, charlm_jax.evaluation, charlm_jax.sampling.params\n"
        "charlm_jax.evaluation.Stream(), charlm_jax.sampling.params.SamplingParams()\n"
        "print('jax' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout == "False\n", ended.stderr
