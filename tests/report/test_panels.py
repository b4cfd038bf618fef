"""Panels of curves."""

from charlm_jax.evaluation.bootstrap import Interval
from charlm_jax.report.figures.panels import IntervalCurve, Panel, draw_panels


def _curve(label: str) -> IntervalCurve:
    return IntervalCurve(label, [1.0, 2.0], [Interval(1.0, 0.9, 1.1), Interval(0.8, 0.7, 0.9)])


def test_curves_of_one_label_look_alike_in_all_panels() -> None:
    few, many = [_curve("b"), _curve("d")], [_curve(label) for label in "abc"]
    for ordered in (False, True):
        figure = draw_panels(
            [Panel("few", few), Panel("many", many)],
            title="",
            x_label="",
            y_label="",
            ordered=ordered,
        )
        looks: dict[object, set[object]] = {}
        for axes in figure.axes:
            for line in axes.lines:
                look = (str(line.get_color()), line.get_marker())
                looks.setdefault(line.get_label(), set()).add(look)
        assert all(len(looks[label]) == 1 for label in "abcd")
        assert len(set.union(*(looks[label] for label in "abcd"))) == 4
