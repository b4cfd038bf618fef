"""Figures and pages of a run, as a notebook shows them."""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import charlm_jax
from charlm_jax.comparison.run_facts import read_run_facts
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.folders import MODEL_PAGE_MARK
from charlm_jax.evaluation import Stream, Window
from charlm_jax.report.figures.base import save_figure
from charlm_jax.report.figures.loss_curve import draw_losses_by_step
from charlm_jax.report.html.inline_page import InlinePage
from charlm_jax.report.html.page import page_html
from tests.conftest import make_tiny_config

TEXT = "abcdabcd"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> charlm_jax.Run:
    changes = {"model.layers": ("lstm", "attention", "gru"), "model.heads": 2}
    config = make_tiny_config(**changes, **{"train.max_steps": 10})
    return charlm_jax.train(config, tmp_path_factory.mktemp("plots") / "run $x$", quiet=True)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> charlm_jax.Run:
    """An attention run with learned positions, and without held-out text."""
    changes = {"model.layers": ("attention",), "model.position": "learned", "model.max_length": 8}
    fields = {"split.kind": "none", "train.max_steps": 10, **changes}
    folder = tmp_path_factory.mktemp("plots") / "limited"
    return charlm_jax.train(make_tiny_config(**fields), folder, quiet=True)


def size_of_png(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def words(figure: Figure) -> str:
    return " ".join(
        [text.get_text() for text in figure.texts] + [axes.get_title() for axes in figure.axes]
    )


def test_a_figure_shows_itself_at_the_size_of_text(run: charlm_jax.Run, tmp_path: Path) -> None:
    figure = charlm_jax.plot_attention(run, TEXT)
    assert isinstance(figure, Figure)
    png, size = figure._repr_png_()
    save_figure(figure, tmp_path / "figure.png")
    assert png == (tmp_path / "figure.png").read_bytes()  # the one that the command saves
    for drawn, shown, inches in zip(
        size_of_png(png), (size["width"], size["height"]), figure.get_size_inches(), strict=True
    ):
        assert shown == round(80 * inches) and 1.8 < drawn / shown < 2.0


def test_a_loss_is_a_curve_of_the_metrics(run: charlm_jax.Run, limited: charlm_jax.Run) -> None:
    (axes,) = charlm_jax.plot_loss(run).axes
    facts = read_run_facts(run)
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert curves == {
        "training": [list(point) for point in facts.training],
        "held out": [list(point) for point in facts.held_out["raw"]],
    }
    (axes,) = charlm_jax.plot_loss(run, limited).axes
    labels = [line.get_label() for line in axes.lines]
    assert labels == [r"run \$x\$, training", r"run \$x\$, held out", "limited, training"]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert axes.get_legend() is None and axes.figure.legends  # beside the curves, not on them
    many = [facts._replace(workdir=f"runs/_{number}") for number in range(8)]
    many.append(facts._replace(workdir="other/_0"))
    (axes,) = draw_losses_by_step(many).axes
    (legend,) = axes.figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[0] == "runs/_0, training" and shown[2] == "_1, training" and len(shown) == 18
    looks = {(x.get_color(), x.get_linestyle(), x.get_marker()) for x in axes.lines}
    assert len(looks) == len(axes.lines)
    for given in ([run, limited], (run.workdir, str(limited.workdir))):
        for arguments in ([given], given):
            (axes,) = charlm_jax.plot_loss(*arguments).axes
            assert [line.get_label() for line in axes.lines] == labels
    (axes,) = charlm_jax.plot_loss(run.workdir.parent).axes
    assert {line.get_label() for line in axes.lines} == {*curves}
    assert charlm_jax.plot_loss(run)._repr_png_()[0].startswith(b"\x89PNG")


def test_raw_and_averaged_weights_look_different(run: charlm_jax.Run) -> None:
    facts = read_run_facts(run)
    both = {"average": facts.held_out["raw"], "raw": facts.held_out["raw"]}
    (axes,) = draw_losses_by_step([facts._replace(weights="average", held_out=both)]).axes
    _, average, raw = axes.lines
    assert average.get_label() == "held out, averaged weights" and raw.get_label() == "held out"
    assert average.get_color() == raw.get_color()
    assert average.get_linestyle() != raw.get_linestyle()
    assert (average.get_fillstyle(), raw.get_fillstyle()) == ("full", "none")


def test_attention_is_that_of_the_layer_and_head(run: charlm_jax.Run) -> None:
    figure = charlm_jax.plot_attention(run, TEXT)
    assert "layer 1, head 0" in words(figure) and "layer 1, head 1" in words(figure)
    figure = charlm_jax.plot_attention(run, TEXT, layer=1, head=1)
    assert "head 1: mean" in words(figure) and "head 0" not in words(figure)
    assert "layer 1 (attention) of run $x$, checkpoint 10" in words(figure)
    (image,) = (image for axes in figure.axes if axes.get_title() for image in axes.images)
    weights_THS = run.inspect(TEXT).layers[1].arrays["weights"]
    np.testing.assert_array_equal(image.get_array().filled(0.0), weights_THS[:, 1])


def test_gates_are_those_of_the_last_recurrent_layer_or_of_the_one_named(
    run: charlm_jax.Run,
) -> None:
    assert "layer 2 (gru)" in words(charlm_jax.plot_gates(run, TEXT))
    assert "layer 0 (lstm)" in words(charlm_jax.plot_gates(run, TEXT, layer=0))


def test_what_a_run_does_not_have_is_one_line(
    run: charlm_jax.Run, limited: charlm_jax.Run, tmp_path: Path
) -> None:
    def fails(says: str, call: object, *arguments: object, **named: object) -> None:
        with pytest.raises(CharlmError, match=says) as failure:
            call(*arguments, **named)  # type: ignore[operator]
        assert "\n" not in str(failure.value)

    fails(
        "layer=0 of .* has no attention: it must be 1", charlm_jax.plot_attention, run, "a", layer=0
    )
    fails("layer=7 .* must be 0 or 2", charlm_jax.plot_gates, run, "a", layer=7)
    fails("layer=-1", charlm_jax.plot_gates, run, "a", layer=-1)
    fails("head=2 is not allowed", charlm_jax.plot_attention, run, "a", head=2)
    fails("no layer with states: its layers are attention", charlm_jax.plot_gates, limited, "a")
    fails("give at least one", charlm_jax.plot_loss)
    fails("give at least one", charlm_jax.plot_loss, [])
    fails("no run in ", charlm_jax.plot_loss, tmp_path)
    fails("3 is not a run", charlm_jax.plot_loss, 3)
    fails("3 is not a run", charlm_jax.plot_loss, [3])
    charlm_jax.write_export(run, tmp_path / "exported")
    fails("has no losses to plot", charlm_jax.plot_loss, charlm_jax.load_run(tmp_path / "exported"))
    fails("'@'", charlm_jax.show_surprisal, run, "ab@")
    fails("cannot read", charlm_jax.show_page, tmp_path / "gone.html")
    (tmp_path / "other.html").write_text("<p>")
    fails("is not a page of charlm", charlm_jax.show_page, tmp_path / "other.html")
    (tmp_path / "model.html").write_text(f"<!-- {MODEL_PAGE_MARK} -->")
    fails("show it with charlm_jax.playground", charlm_jax.show_page, tmp_path / "model.html")


class Frame(HTMLParser):
    """The elements that a notebook gets, and the page inside its frame."""

    def __init__(self, page: InlinePage) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.page = ""
        self.attributes: dict[str, str | None] = {}
        self.feed(page._repr_html_())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes = dict(attrs)
        self.page = self.attributes["srcdoc"] or ""


def test_a_page_is_whole_inside_its_frame_and_nothing_is_outside() -> None:
    hostile = "\"></iframe><script>alert('&amp;')</script><style>* { color: red }</style>"
    page = InlinePage(page_html(hostile, [hostile], []), height=100_000)
    frame = Frame(page)
    assert frame.tags == ["iframe"] and frame.page == page.html
    assert list(frame.attributes) == ["sandbox", "style", "srcdoc"]
    assert frame.attributes["sandbox"] is None  # everything is forbidden
    assert "height: 640px" in (frame.attributes["style"] or "")
    assert "html" not in repr(page) and len(repr(page)) < 60


def test_surprisal_is_a_title_of_every_character(run: charlm_jax.Run) -> None:
    page = Frame(charlm_jax.show_surprisal(run, TEXT)).page
    score, top = run.score(TEXT), run.top_predictions(TEXT)
    titles = [
        html.unescape(title)
        for title in re.findall(r'<label class=h\d+ data-t="(.*?)"', page, re.S)
    ]
    assert len(titles) == len(score.nll_N) == len(TEXT) - 1
    for title, nats, symbols in zip(titles, score.nll_N, top.symbols, strict=True):
        assert title.startswith(f"{nats / np.log(2):.2f} bits") and f"\t{symbols[0]}\t" in title
    assert "<h1>Surprise under run $x$, checkpoint 10</h1>" in page
    assert "read: stream" in page or "Context: stream" in page
    kept = run.config.evaluation_context
    assert f"characters of the text, of which attention keeps the last {kept}." in page


def test_surprisal_of_a_model_with_learned_positions_is_read_in_windows(
    limited: charlm_jax.Run,
) -> None:
    page = Frame(charlm_jax.show_surprisal(limited, TEXT * 4)).page
    assert f"Context: {Window(limited.config.evaluation_context)}" in page
    with pytest.raises(CharlmError):
        charlm_jax.show_surprisal(limited, TEXT * 4, Stream())


def test_unknown_characters_are_shown_if_they_are_allowed(run: charlm_jax.Run) -> None:
    page = Frame(charlm_jax.show_surprisal(run, "ab@cd", unknown="drop")).page
    assert "unknown to the model: left out" in page


def test_a_longer_text_has_a_taller_frame(run: charlm_jax.Run) -> None:
    short, long = (charlm_jax.show_surprisal(run, TEXT * times).height for times in (1, 100))
    assert short < long < 1000


def test_a_report_is_shown_as_it_was_written(run: charlm_jax.Run, tmp_path: Path) -> None:
    path = charlm_jax.write_report([run], tmp_path / "report.html")
    assert Frame(charlm_jax.show_page(path)).page == path.read_text(encoding="utf-8")
