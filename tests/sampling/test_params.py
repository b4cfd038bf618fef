"""Sampling parameters refuse what cannot be sampled, before a model is asked."""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from charlm_jax.core.errors import CharlmError
from charlm_jax.sampling.params import SamplingFields, SamplingParams, check_scale


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": -1.0}, r"scale=-1.0 is not allowed: it must lie in \[0, inf\]"),
        ({"scale": math.nan}, "scale=nan"),
        ({"scale": Fraction(-1, 2)}, "scale=-1/2 is not allowed"),
        ({"scale": np.str_("2")}, "scale=.*'2'.* is not allowed: it must be a number$"),
        ({"scale": np.complex128(2)}, "scale=.* is not allowed: it must be a number$"),
        ({"scale": np.complex64(2)}, "scale=.* is not allowed: it must be a number$"),
        ({"top_p": np.array("1")}, "top_p=.* is not allowed: it must be a number$"),
        ({"top_k": -1}, "top_k=-1 is not allowed"),
        ({"top_k": 1.5}, "top_k=1.5 is not allowed"),
        ({"top_p": 1.1}, "top_p=1.1 is not allowed"),
        ({"min_p": math.nan}, "min_p=nan is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"seed": 2**32}, "seed=4294967296 is not allowed"),
        ({"stop": "ab"}, r"write stop=\['ab'\]"),
        ({"stop": ["a", ""]}, "stop='' is not allowed"),
        ({"mode": "stream"}, "mode='stream' is not known: it must be one of carried, window"),
        ({"scale": "2"}, "scale='2' is not allowed: it must be a number$"),
        ({"scale": None}, "scale=None is not allowed: it must be a number$"),
        ({"scale": [0.5, 1]}, r"must be a number; sample takes several as scales=\[0.5, 1\]"),
        ({"top_k": "5"}, "top_k='5' is not allowed: it must be a number"),
        ({"top_p": None}, "top_p=None is not allowed: it must be a number"),
        ({"min_p": np.zeros(2)}, r"min_p=array\(.*must be a number"),
        ({"stop": None}, "stop=None is not allowed: it must be a list of strings"),
        ({"stop": [3]}, r"stop=\[3\] is not allowed: it must be a list of strings"),
        ({"context": 0}, "context=0 is not allowed"),
        ({"unknown": "skip"}, "unknown='skip': it must be error, drop, replace"),
    ],
)
def test_what_cannot_be_sampled_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(CharlmError, match=message):
        SamplingParams(**fields)
    with pytest.raises(CharlmError, match=message):
        dataclasses.replace(SamplingParams(), **fields)


def test_stop_strings_may_come_in_any_sequence() -> None:
    assert SamplingParams(stop=["a", "b"]) == SamplingParams(stop=("a", "b"))
    assert len({SamplingParams(stop=["a"]), SamplingParams(stop=("a",))}) == 1
    read_once: Any = iter(["a", "b"])
    assert SamplingParams(stop=read_once).stop == ("a", "b")


@pytest.mark.parametrize(
    "number", [2, np.float32(2), np.array(2), jnp.float32(2), jnp.bfloat16(2), Fraction(2)]
)
def test_numbers_may_be_those_of_arrays(number: Any) -> None:
    assert SamplingParams(scale=number, top_k=number).top_k == 2


def test_a_scale_beyond_float32_is_infinite() -> None:
    assert check_scale(10**400) == check_scale(1e39) == math.inf
    assert check_scale(Fraction(1, 2)) == 0.5  # type: ignore[arg-type]
    assert math.copysign(1.0, check_scale(-0.0)) == 1.0


def test_keyword_arguments_are_the_fields() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(SamplingParams)}
    assert SamplingFields.__annotations__ == fields
