"""The figures of what happens inside a model: what they show, and where."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from charlm_jax.analysis.activations import mean_attention_distance
from charlm_jax.core.errors import CharlmError
from charlm_jax.report.figures import attention_maps
from charlm_jax.report.figures.attention_maps import draw_attention_distances, draw_attention_maps
from charlm_jax.report.figures.base import (
    add_axes,
    add_title,
    blank_figure,
    label_characters,
    save_figure,
    visible_symbol,
)
from charlm_jax.report.figures.gate_maps import draw_gate_maps

TEXT = "to be,\nor $x$"
LONG = "words and more, " * 125


def draw_weights(length: int, heads: int) -> np.ndarray:
    """Causal rows of probabilities, (T, H, S)."""
    weights_THS = np.random.default_rng(0).exponential(size=(length, heads, length))
    weights_THS *= np.tril(np.ones((length, length)))[:, None, :]
    return weights_THS / weights_THS.sum(axis=2, keepdims=True)


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def texts(path: Path) -> str:
    # Letters are drawn as outlines; matplotlib keeps each text beside them as a comment.
    return path.read_text(encoding="utf-8")


def test_attention_maps_are_labelled(tmp_path: Path) -> None:
    file = tmp_path / "new" / "map.svg"
    weights_THS = draw_weights(len(TEXT), 3)
    distance_H = mean_attention_distance(weights_THS)
    title = "it reads “$x$”"
    figure = draw_attention_maps(
        weights_THS,
        distance_H,
        TEXT,
        heads=range(3),
        layer="layer 1",
        unit="characters",
        title=title,
    )
    save_figure(figure, file)
    for head, distance in enumerate(distance_H):
        words = f"layer 1, head {head}: mean distance {distance:.1f} characters"
        assert f"<!-- {words} -->" in texts(file)
    for words in (
        "it reads “$x$”",
        "attention weight",
        "character attended to (key)",
        "character that attends (query), read downwards",
        "␣",
        "⏎",
    ):
        assert f"<!-- {words} -->" in texts(file)


def test_rows_look_and_columns_are_looked_at() -> None:
    weights_THS = draw_weights(len(TEXT), 2)
    figure = draw_attention_maps(
        weights_THS, np.zeros(2), TEXT, heads=range(2), layer="layer 0", unit="characters", title=""
    )
    maps = [axes for axes in figure.axes if axes.images and axes.get_title()]
    marks = [visible_symbol(symbol) for symbol in TEXT]
    for head, axes in enumerate(maps):
        (image,) = axes.images
        ahead_TS = np.triu(np.ones((len(TEXT), len(TEXT)), bool), k=1)
        np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), ahead_TS)
        np.testing.assert_array_equal(image.get_array().filled(0.0), weights_THS[:, head])
        assert image.get_clim() == (0.0, 1.0) and axes.yaxis_inverted()
        assert ticks(axes.xaxis) == ticks(axes.yaxis) == marks
    assert len(maps) == 2


@pytest.mark.parametrize(("length", "heads", "maps"), [(1, 1, 1), (300, 5, 5), (2, 9, 6)])
def test_attention_maps_of_any_size_are_bounded(
    length: int, heads: int, maps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_maps, "_MAX_HEADS", 6)
    weights_THS = draw_weights(length, heads)
    figure = draw_attention_maps(
        weights_THS,
        np.zeros(heads),
        LONG[:length],
        heads=range(heads),
        layer="layer 0",
        unit="characters",
        title="",
    )
    assert max(figure.get_size_inches()) < 25
    assert len([axes for axes in figure.axes if axes.get_title()]) == maps
    words = " ".join(text.get_text() for text in figure.texts)
    assert ("the first 6 of 9 heads" in words) == (heads == 9)


def test_characters_that_would_be_too_small_are_positions() -> None:
    weights_THS, distance_H = draw_weights(300, 1), np.zeros(1)
    maps = draw_attention_maps(
        weights_THS, distance_H, LONG[:300], heads=[0], layer="layer 0", unit="characters", title=""
    )
    gates = draw_gate_maps({}, {"hidden": np.ones((2000, 2))}, LONG, title="")
    for figure, length in ((maps, 300), (gates, 2000)):
        marks = ticks(figure.axes[0].xaxis)
        assert len(marks) < 20 and {"0", str(length // 2 - 50 * (length == 300))} <= set(marks)
        words = [text.get_text() for text in figure.texts] + [
            axes.get_xlabel() for axes in figure.axes
        ]
        assert any(text.startswith("position of the character") for text in words)
        assert max(figure.get_size_inches()) < 25


@pytest.mark.parametrize(
    ("window", "unit", "equal"),
    [
        (0, "characters", 10.0),  # (41 - 1) / 4
        (41, "characters", 10.0),
        (3, "bytes", (0 + 0.5 + 39 * 1.0) / 41),
    ],
)
def test_distances_stand_by_head_and_layer(window: int, unit: str, equal: float) -> None:
    distances = {"layer 0": np.array([0.5, 2.25]), "layer 3": np.array([7.0])}
    (axes,) = draw_attention_distances(
        distances, 41, window=window, unit=unit, title="it reads"
    ).axes
    heights = [y for line in axes.lines[:2] for y in line.get_ydata()]
    assert heights == [0.5, 2.25, 7.0]
    assert ticks(axes.xaxis) == ["layer 0", "layer 3"]
    assert [label.get_text() for label in axes.get_xticklabels(minor=True)] == ["0", "1", "0"]
    assert axes.get_ylabel() == f"mean attention distance, {unit}"
    assert list(axes.lines[2].get_ydata()) == pytest.approx([equal, equal])
    assert axes.get_ylim()[1] > max(equal, 7.0)


def test_distances_of_many_heads_are_bounded() -> None:
    distances = {f"layer {index}": np.arange(64.0) for index in range(12)}
    figure = draw_attention_distances(distances, 100, window=0, unit="characters", title="")
    assert max(figure.get_size_inches()) < 25


def test_gates_of_another_width_than_the_state_have_no_panel() -> None:
    """Such as one for each head of a layer of one's own."""
    by_head_TM, cell_TH = np.full((len(TEXT), 2), 0.5), np.zeros((len(TEXT), 9))
    figure = draw_gate_maps({"keep_gate": by_head_TM}, {"cell": cell_TH}, TEXT, title="")
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.images] == ["cell"]


def test_a_unit_is_the_same_row_in_every_panel() -> None:
    random = np.random.default_rng(0)
    gate_TH, cell_TH = random.random((len(TEXT), 9)), 3.0 * random.normal(size=(len(TEXT), 9))
    figure = draw_gate_maps({"forget_gate": gate_TH}, {"cell": cell_TH}, TEXT, title="")
    gate_axes, cell_axes = (axes for axes in figure.axes if axes.get_title(loc="left"))
    order_H = np.argsort(-cell_TH.mean(axis=0))
    for axes, x_TH in ((gate_axes, gate_TH), (cell_axes, cell_TH)):
        np.testing.assert_array_equal(axes.images[0].get_array(), x_TH.T[order_H])
        assert ticks(axes.xaxis) == [visible_symbol(symbol) for symbol in TEXT]
        assert axes.get_ylabel() == "9 units, sorted\nby mean cell"
    assert gate_axes.images[0].get_clim() == (0.0, 1.0)
    low, high = cell_axes.images[0].get_clim()
    assert low == -high == pytest.approx(-np.abs(cell_TH).max())


def test_small_states_have_the_scale_from_minus_1_to_1() -> None:
    figure = draw_gate_maps({}, {"hidden": np.full((len(TEXT), 2), 0.1)}, TEXT, title="")
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)


@pytest.mark.parametrize("units", [1, 64, 256, 1000])
def test_every_row_is_as_high_as_the_next(units: int) -> None:
    figure = draw_gate_maps({}, {"hidden": np.ones((3, units))}, "abc", title="")
    height = figure.axes[0].get_position().height * figure.get_size_inches()[1] * figure.dpi
    assert 199 < height < 601
    assert units > 600 or round(height, 3) % units == 0


def test_gate_maps_are_labelled(tmp_path: Path) -> None:
    ones_TH = np.ones((len(TEXT), 4))
    file = tmp_path / "gates.svg"
    figure = draw_gate_maps({"reset_gate": 0.5 * ones_TH}, {"candidate": ones_TH}, TEXT, title="it")
    save_figure(figure, file)
    for words in ("it", "reset gate, 0.50 on average", "candidate", "character read", "⏎"):
        assert f"<!-- {words} -->" in texts(file)


def test_what_the_font_lacks_is_its_code_point(tmp_path: Path) -> None:
    assert [visible_symbol(symbol) for symbol in "é\t\x01א\ue000"] == ["é", "⇥", "1", "א", "e000"]
    text = "中🐍é\x01"
    figure = draw_gate_maps({}, {"hidden": np.ones((len(text), 1))}, text, title="")
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000  # and no warning, which would be an error


@pytest.mark.parametrize("name", ["map.nope", "taken/map.png"])
def test_a_figure_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(CharlmError, match=r"^cannot write the figure .*map") as failure:
        save_figure(Figure(), f"{tmp_path}/{name}")
    assert "\n" not in str(failure.value)


def test_a_figure_with_a_nul_byte_in_its_path_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CharlmError, match="is not a path: it has a NUL byte") as failure:
        save_figure(Figure(), f"{tmp_path}/a\0b/map.png")
    assert "\n" not in str(failure.value)


def test_a_figure_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    save_figure(Figure(), file)
    before = file.read_bytes()
    broken = Figure()
    broken.text(0.5, 0.5, "$\\nonsense$")  # mathtext that cannot be read
    with pytest.raises(CharlmError):
        save_figure(broken, file)
    assert file.read_bytes() == before


def test_other_scripts_are_drawn_in_fonts_that_have_them(tmp_path: Path) -> None:
    """Hebrew is not in the monospaced font; where no font has a glyph, nothing is warned of."""
    figure = blank_figure(3.0, 3.0)
    axes = add_axes(figure, left=0.5, top=0.5, width=2.0, height=2.0)
    label_characters(axes.xaxis, "aאb", inches=2.0)
    add_title(figure, "runs/שלום and \U000f0000 " + chr(0x1F9FF))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "figure.png")
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels] == ["a", "א", "b"]
    families = [label.get_fontfamily() for label in labels]
    assert families == [["DejaVu Sans Mono"], ["DejaVu Sans Mono", "DejaVu Sans"], families[0]]
