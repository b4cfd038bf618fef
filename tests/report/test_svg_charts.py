"""Charts: every value is where its axes say, at any width."""

import re

import pytest

from charlm_jax.report.html.svg_charts import DataPoint, Line, Span, line_chart, span_chart
from charlm_jax.report.html.ticks import Axis

X = Axis("steps", 0.0, 200.0, [0.0, 100.0, 200.0])
Y = Axis("nats", 1.0, 3.0, [1.0, 2.0, 3.0])
POINTS = [DataPoint(0.0, 5.0), DataPoint(50.0, 2.5, 2.0, 3.0), DataPoint(200.0, 1.0, 1.0, 1.5)]


def marks(markup: str) -> list[tuple[float, float, str]]:
    """Places, in per cent, and titles of all marks."""
    found = re.findall(r'<svg x="([-\d.]+)%" y="([-\d.]+)%"><path .*?<title>(.*?)</title>', markup)
    return [(float(x), float(y), title) for x, y, title in found]


def test_values_are_in_per_cent_of_the_plot_and_what_is_cut_off_has_no_mark() -> None:
    drawn = str(line_chart([Line("a", 0, POINTS)], title="t", x=X, y=Y, verticals=[("v", 150.0)]))
    assert marks(drawn) == [(25.0, 25.0, "a: 2.5000 at 50"), (100.0, 100.0, "a: 1.0000 at 200")]
    (path,) = re.findall(r'<title>a</title><path d="(.*?)"', drawn)
    assert path == "M0 -1000L250 250L1000 1000"  # beyond the top, where the drawing ends
    (band,) = re.findall(r'<path d="([^"]*)" class="band s0"', drawn)
    assert band == "M250 500L1000 1000L1000 750L250 0Z"
    assert '<line x1="75%" y1="0" x2="75%" y2="100%" class="marker">' in drawn
    labels = re.findall(r'<text x="([\d.]+%)" y="([\d.]+%?)"[^>]*>(.*?)</text>', drawn)
    assert {("0%", "0%", "3"), ("0%", "50%", "2"), ("50%", "100%", "100")} < set(labels)


@pytest.mark.parametrize("value", [1.0, 1.5, 3.0])
def test_a_mean_and_its_interval_are_on_their_axis(value: float) -> None:
    span = Span("a", 1, value, value - 0.5, value + 0.5, [value])
    drawn = str(span_chart([span], [("n-gram", 2.0)], title="t", x=Y))
    x, low, high = (50 * (number - 1.0) for number in (value, value - 0.5, value + 0.5))
    assert f'<line x1="{low:g}%"' in drawn and f'x2="{high:g}%"' in drawn
    assert re.search(rf'<svg x="{x:g}%" y="\d+"><path [^>]*><title>a: {value:.4f}</title>', drawn)


def test_a_chart_has_the_width_that_it_is_given() -> None:
    """Only the drawing of lines is stretched: nothing else has units of its own."""
    charts = (
        line_chart([Line("a", 0, POINTS)], title="t", x=X, y=Y),
        span_chart([Span("a", 0, 2.0, 1.5, 2.5, [2.0])], [], title="t", x=Y),
    )
    for drawn in map(str, charts):
        outer = re.match("<svg [^>]*>", drawn)
        assert outer is not None and "viewBox" not in outer[0] and "width" not in outer[0]
        assert "aria-label" in outer[0] and 'role="img"' in outer[0]
    assert str(charts[0]).count('preserveAspectRatio="none"') == 1
