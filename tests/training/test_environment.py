"""What a run says of the machine it is on."""

from pathlib import Path

import pytest

from charlm_jax.training import environment
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import Notes, make_tiny_config


@pytest.mark.parametrize(
    ("cpuinfo", "lacks"),
    [
        ("model name\t: An x86\nflags\t\t: sse2 avx2 fma\n", True),
        ("flags\t\t: avx2 avx512_bf16\n", False),
        ("flags\t\t: avx2 amx_bf16 amx_tile\n", False),
        ("Features\t: asimd fphp\n", True),
        ("Features\t: asimd bf16\n", False),
        ("", False),
    ],
)
def test_a_processor_without_bfloat16_units_is_told_by_its_flags(
    cpuinfo: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert environment.lacks_bfloat16_units() is lacks


def test_processors_of_one_name_differ_by_their_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def processor(flags: str) -> object:
        cpuinfo = f"model name\t: An x86\nflags\t\t: {flags}\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
        return environment.environment()["processor"]

    assert processor("sse2 avx2 fma") == "An x86 (avx2)"
    assert processor("avx512f fma avx2 avx512_bf16") == "An x86 (avx2 avx512f avx512_bf16)"
    assert processor("sse2") == "An x86"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lacks", [True, False])
def test_a_run_says_at_its_start_that_bfloat16_is_slower_here(
    precision: str, lacks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charlm_jax.training.remarks.lacks_bfloat16_units", lambda: lacks)
    view = Notes()
    config = make_tiny_config(**{"model.precision": precision, "train.max_steps": 1})
    train_and_evaluate(config, tmp_path / "run", view=view)
    told = any("no bfloat16 units" in line for line in view.lines)
    assert told is (lacks and precision == "bfloat16")


def test_variables_that_are_overridden_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    variables = str(environment.environment()["variables"])
    assert "JAX_NUM_CPU_DEVICES=1" in variables and "JAX_ENABLE_X64" not in variables
