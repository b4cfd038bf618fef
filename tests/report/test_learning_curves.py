"""Charts of losses show the lowest loss of every run, in the unit of its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm_jax.comparison.findings import GroupFacts
from charlm_jax.comparison.run_facts import Curve, RunFacts
from charlm_jax.report.learning_curves import learning_curves
from tests.report.test_svg_charts import marks


def make_facts(held_out: Curve, **changes: object) -> RunFacts:
    facts = RunFacts(
        workdir="runs/a",
        seed=0,
        layers=("lstm",),
        parameters=9,
        checkpoint=1,
        weights="raw",
        step=1,
        total_steps=None,
        has_ended=True,
        characters_per_step=32,
        context=8,
        unit="characters",
        training=[],
        held_out={"raw": held_out},
        command="",
    )
    return facts._replace(**changes)


curves = st.lists(st.integers(1, 400), min_size=1, max_size=8).map(
    lambda losses: [(step, loss / 100) for step, loss in enumerate(losses, start=1)]
)


@given(st.lists(curves, min_size=1, max_size=3), st.sampled_from([1, 100]))
def test_the_lowest_loss_of_every_run_is_shown(found: list[Curve], longer: int) -> None:
    """Also of a run that ends before the steep beginning of the longest does."""
    found[0] = [(longer * step, loss) for step, loss in found[0]]
    groups = [GroupFacts(f"r{n}", [make_facts(curve)]) for n, curve in enumerate(found)]
    chart, _ = map(str, learning_curves(groups, [90]))
    titles = [title for _, _, title in marks(chart)]
    for group, curve in zip(groups, found, strict=True):
        step, loss = min(curve, key=lambda point: point[1])
        assert f"{group.name}: {loss:.4f} at {step}" in titles


@pytest.mark.parametrize(("count", "best"), [(201, 2), (900, 1), (900, 500), (900, 899)])
def test_many_evaluations_are_thinned_but_for_the_lowest(count: int, best: int) -> None:
    curve = [(step, 0.5 if step == best else 1.0) for step in range(1, count + 1)]
    chart, _ = map(str, learning_curves([GroupFacts("a", [make_facts(curve)])], [90]))
    titles = [title for _, _, title in marks(chart)]
    assert f"a: 0.5000 at {best}" in titles and 10 < len(titles) < 50


@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_losses_are_per_unit_of_the_text(unit: str) -> None:
    facts = [make_facts([(1, 2.0), (2, 1.0)], unit=unit, characters_per_step=n) for n in (8, 16)]
    chart, _ = learning_curves([GroupFacts("a", facts)], [90])
    assert f"nats per {unit[:-1]}<" in chart and f"{unit} trained on" in chart
    assert f"90 {unit} in windows of 8" in chart
