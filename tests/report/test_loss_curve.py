"""The figure of training losses."""

from pathlib import Path

from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.loss_curve import draw_learning_curves

CURVES = {"ours": [2.0, 1.5, 1.25], "the book": [2.25, 1.5]}


def test_axes_and_curves_are_labelled(tmp_path: Path) -> None:
    save_figure(draw_learning_curves(CURVES), tmp_path / "new folder" / "curves.svg")
    # Letters are drawn as outlines; matplotlib keeps each text beside them as a comment.
    drawn = (tmp_path / "new folder" / "curves.svg").read_text(encoding="utf-8")
    for label in ("epoch", "training loss, nats per character", *CURVES):
        assert f"<!-- {label} -->" in drawn
