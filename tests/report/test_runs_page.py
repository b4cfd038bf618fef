"""The page about runs: it says what was found, exactly, and nothing in it acts or calls out."""

import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from markupsafe import Markup

from charlm_jax.cli import main
from charlm_jax.comparison.compare import compare
from charlm_jax.comparison.findings import gather
from charlm_jax.comparison.passages import PASSAGE, READ_BEFORE, choose_passage, first_words
from charlm_jax.comparison.run_facts import train_command
from charlm_jax.comparison.scores import find_scores
from charlm_jax.comparison.units import corpus_units
from charlm_jax.config.loading import load_config
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.dataset import load_dataset
from charlm_jax.evaluation import Sliding, Window
from charlm_jax.inference.run import Run, load_run
from charlm_jax.report import Picture, Section, Table, score_sections, write_page
from charlm_jax.report.html import rendering
from charlm_jax.report.html.heat_text import DIFFERENCE_LEVELS, LEVELS, sign
from charlm_jax.report.html.page import details
from charlm_jax.report.html.rendering import format_percent
from charlm_jax.report.html.ticks import doubling_axis, linear_axis
from charlm_jax.report.palette import FIGURE_SERIES, PAGE_SERIES, SURPRISE
from charlm_jax.report.runs_page import describe, write_report
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import make_tiny_config

HOSTILE = (
    "</script><script>alert(1)</script> & <b title=\"x\" class='y'>&amp;\t\x07\x0b\x7f "
    "\u202eabc\u202c שלום עולם! مرحبا é́ 👩\u200d🚀 你好，世界。\u2028\ufeff\ufffe\U0001ffff "
    "]]> <!-- --> http://x.y\n"
)
VOID = {"meta", "br", "wbr", "img", "input"}


class Node(NamedTuple):
    """An element's start, in the order of the page."""

    tag: str
    attributes: dict[str, str | None]
    path: tuple[str, ...]


class Page(HTMLParser):
    """A page read strictly: every tag is closed, in order, and nothing is left open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.nodes: list[Node] = []
        self.open: list[str] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self.comments: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.nodes.append(Node(tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((tuple(self.open), data))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def text(self, inside: str = "body") -> str:
        return "".join(data for path, data in self.words if inside in path)

    def all(self, tag: str) -> list[Node]:
        return [node for node in self.nodes if node.tag == tag]


def read(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    refuse_loads(text)
    return Page(text)


def refuse_loads(text: str) -> None:
    """Nothing that makes a browser ask for anything."""
    page = Page(text)
    assert {node.tag for node in page.nodes}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "use"}
    )
    for node in page.nodes:
        assert not any(name.startswith("on") for name in node.attributes), node
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster"):
            value = node.attributes.get(name) or "data:"
            assert value.startswith("data:"), node
        assert node.tag != "meta" or "http-equiv" not in node.attributes
        assert "url(" not in (node.attributes.get("style") or "")
    style = page.text("style")
    assert not re.search(r"url\(|@import|image-set|http", style)


SIZES, SEEDS = (6, 12), (1, 2)


@pytest.fixture(scope="module")
def runs(seeded_runs: Path) -> list[Run]:
    return [load_run(seeded_runs / f"size_{size}_seed_{seed}") for size in SIZES for seed in SEEDS]


@pytest.fixture(scope="module")
def file(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("pages") / "page.html", Window(5))


def heat_maps(page: Page) -> list[list[tuple[str, float]]]:
    """(class, bits) of every cell of every map."""
    maps: list[list[tuple[str, float]]] = []
    for node in page.nodes:
        if node.attributes.get("class") == "heat":
            maps.append([])
        look = node.attributes.get("class") or ""
        if node.tag == "label" and re.fullmatch(r"[hd]\d+", look):
            maps[-1].append((look, float(str(node.attributes["data-t"]).split()[0])))
    return [cells for cells in maps if cells]  # the others are coloured by a unit


def test_every_figure_is_that_of_the_comparison(file: Path, runs: list[Run]) -> None:
    text = read(file).text()
    found = compare(runs, Window(5))
    for row in found.rows():
        assert f"{row.loss.mean:.4f}[{row.loss.low:.4f}, {row.loss.high:.4f}]" in text
        assert f"{row.bits_per_char:.4f}" in text and f"{row.spread:.4f}" in text
        if row.difference is not None:
            assert row.difference.describe() in text
    for baseline in found.baselines:
        assert baseline.name in text and f"{baseline.bits_per_char:.4f}" in text
    for group in found.groups:
        for evaluation in group.evaluations:
            assert f"{evaluation.loss_nats:.4f}" in text
    assert "2,100 characters, window of 5" in text and "seeds 1, 2" in text


def test_the_loss_by_place_goes_on_beyond_what_was_trained(file: Path, runs: list[Run]) -> None:
    row = r'<th scope="row" class="t">(\d+)(?:-(\d+))?</th><td>([\d,]+)</td>(.*?)</tr>'
    rows = re.findall(row, file.read_text(encoding="utf-8"))
    assert rows[0][:2] == ("1", "") and rows[-1][:2] == ("25", "32")
    scored = [run.evaluate(Window(32))[1] for run in runs]
    place_N = np.arange(len(scored[0])) % 32 + 1
    for first, last, count, cells in rows:
        is_there = (place_N >= int(first)) & (place_N <= int(last or first))
        assert int(count.replace(",", "")) == is_there.sum()
        means = re.findall(r"<td>(\d\.\d{4}) \[", cells)
        for group, mean in zip((scored[:2], scored[2:]), means, strict=True):
            expected = np.mean([nll_N[is_there].mean() for nll_N in group])
            assert float(mean) == pytest.approx(expected, abs=6e-5)
    page = read(file)
    assert "trained on 8" in page.text("svg") and "windows of 32 characters" in page.text()


def test_the_maps_have_one_cell_for_every_character(file: Path, runs: list[Run]) -> None:
    page = read(file)
    first, second, less = heat_maps(page)
    dataset = load_dataset(runs[0].config)
    passage = choose_passage(dataset.corpus.text, dataset.part("valid"))
    shown = dataset.corpus.text[passage.start : passage.stop]
    assert len(shown) == PASSAGE and shown in [text for _, text in page.words]
    arrays = []
    for cells, run in ((first, runs[0]), (second, runs[2])):
        score = run.score(dataset.corpus.text[passage.start - READ_BEFORE : passage.stop])
        nll_N = score.nll_N[-PASSAGE:]
        bits_N = nll_N / np.log(2)
        np.testing.assert_allclose([value for _, value in cells], bits_N, atol=6e-3)
        levels = [f"h{min(int(value + 0.5), LEVELS)}" for value in bits_N.tolist()]
        assert [look for look, _ in cells] == levels
        arrays.append(bits_N)
    np.testing.assert_allclose([value for _, value in less], arrays[1] - arrays[0], atol=6e-3)


def test_a_map_is_of_one_seed(file: Path, runs: list[Run]) -> None:
    text = read(file).text()
    for size in SIZES:
        assert f"hidden_size={size}, seed 1: mean " in text
        assert f"hidden_size={size}: mean" not in text
    assert gather(runs[::2], Window(5)).heat.labels == ["hidden_size=6", "hidden_size=12"]
    assert gather(runs[:2], Window(5)).heat.labels == ["seed 1", "seed 2"]


def test_samples_are_what_the_first_run_of_each_arm_draws(file: Path, runs: list[Run]) -> None:
    page, dataset = read(file), load_dataset(runs[0].config)
    prompt = first_words(dataset.corpus.text, dataset.part("valid"))
    text = page.text()
    for run in (runs[0], runs[2]):
        for scale in (0.5, 1.0, 2.0):
            drawn = run.generate(prompt, characters=400, scale=scale, seed=0)
            assert prompt + drawn in text
    for words in ("Scale 0.5 (temperature 2)", "Scale 2 (temperature 0.5)", "seed 0"):
        assert words in text


def test_the_page_says_first_what_the_models_are(file: Path, runs: list[Run]) -> None:
    data = file.read_text(encoding="utf-8")
    (headline,) = re.findall(r'<p class="headline">(.*?)</p>', data)
    found = compare(runs, Window(5))
    best = min(found.rows(), key=lambda row: row.bits_per_char)
    (group,) = (group for group in found.groups if group.name == best.name)
    assert f"{len(found.groups)} character-level language models, trained on" in headline
    who = f"{best.name} (1 LSTM layer; {group.parameters:,} parameters) has the lowest loss"
    assert f"{who}, {best.bits_per_char:.2f} bits per character (mean of 2 seeds)" in headline
    for baseline in found.baselines:
        is_named = f"{baseline.name.split()[0]} {baseline.bits_per_char:.2f}" in headline
        assert is_named == (baseline.name == "xz" or baseline.kind == "ngram")
    assert data.index("headline") < data.index("<h2>")
    headings = re.findall("<h2>(.*?)</h2>", data)
    assert headings[:3] == ["Samples", "Comparison", "Surprise at every character"]
    assert headings[-1] == "Runs and configuration"


def test_a_character_shows_what_was_expected(file: Path, runs: list[Run]) -> None:
    page, dataset = read(file), load_dataset(runs[0].config)
    passage = choose_passage(dataset.corpus.text, dataset.part("valid"))
    text = dataset.corpus.text[passage.start - READ_BEFORE : passage.stop]
    top, nll_N = runs[0].top_predictions(text), runs[0].score(text).nll_N
    cells = page.all("label")[:PASSAGE]
    rows = zip(cells, top.symbols[-PASSAGE:], top.probability_NG[-PASSAGE:].tolist(), strict=True)
    for place, (cell, symbols, probability_G) in enumerate(rows):
        head, *lines = str(cell.attributes["data-t"]).split("\n")
        p = np.exp(-nll_N[place - PASSAGE])
        assert head.endswith(f" bits ({format_percent(p)})")
        assert len(lines) == len(symbols) == 4  # all that there are
        for line, symbol, share in zip(lines, symbols, probability_G, strict=True):
            mark, shown, percent = line.split("\t")
            assert (mark == "▸") == (symbol == text[place - PASSAGE])
            assert shown == sign(symbol) and percent.strip() == format_percent(share)
        bars = dict(bar.split(":") for bar in str(cell.attributes["style"]).split(";"))
        expected = zip(("--a", "--b", "--c", "--d"), probability_G, strict=True)
        assert bars == {name: f"{100 * share:.0f}" for name, share in expected if share >= 0.005}


def test_the_page_can_be_read_by_all(file: Path) -> None:
    page = read(file)
    assert page.all("html")[0].attributes["lang"] == "en"
    (viewport,) = [n for n in page.all("meta") if n.attributes.get("name") == "viewport"]
    assert "width=device-width" in str(viewport.attributes["content"])
    assert len(page.all("h1")) == 1 and len(page.all("h2")) > 5
    assert all("scope" in node.attributes for node in page.all("th"))
    drawings = [node for node in page.all("svg") if node.attributes.get("role") == "img"]
    assert len(drawings) == 4 and all(node.attributes["aria-label"] for node in drawings)
    assert all("div" in node.path for node in page.all("table"))  # a box that scrolls
    assert "prefers-color-scheme: dark" in page.text("style")


def test_a_page_has_the_title_and_the_sections_that_are_given(
    runs: list[Run], tmp_path: Path
) -> None:
    table = Table(["model", "rate"], [["<lstm>", "0.04"]], "Learning rates")
    notes = [Section("Notes & <more>", ["They differ in their rate.", table])]
    path, title = tmp_path / "page.html", "Two <rates>"
    write_report(runs[:1], path, Window(5), baselines=False, title=title, sections=notes)
    page = read(path)
    assert page.text("h1") == title and page.text("title").startswith(title)
    headings = re.findall("<h2>(.*?)</h2>", path.read_text(encoding="utf-8"))
    assert headings[-2:] == ["Notes &amp; &lt;more&gt;", "Runs and configuration"]
    for words in ("They differ in their rate.", "<lstm>", "Learning rates"):
        assert words in page.text()


def test_the_same_runs_give_the_same_bytes(file: Path, runs: list[Run], tmp_path: Path) -> None:
    phases: list[str] = []
    again = write_report(
        [load_run(run.workdir) for run in runs],
        tmp_path / "b.html",
        Window(5),
        report=lambda phase, share: phases.append(phase),
    )
    assert {"fitting n-grams", "compressing", "sampling"} <= set(phases)
    assert again.read_bytes() == file.read_bytes()
    before = again.stat().st_ino
    write_report(runs[:1], again)  # ours is replaced, as a whole
    assert again.stat().st_ino != before and [*tmp_path.iterdir()] == [again]
    assert len(heat_maps(read(again))) == 1


def test_only_unfinished_runs_have_a_time(runs: list[Run]) -> None:
    data = gather(runs[:1], Window(5))
    assert "Newest metrics" not in str(describe(data).sections)
    (group,) = data.groups
    unfinished = group._replace(runs=[run._replace(has_ended=False) for run in group.runs])
    page = describe(data._replace(groups=[unfinished]))
    assert "<dt>Newest metrics</dt><dd>20" in str(page.sections)


def test_what_is_not_ours_is_kept(
    seeded_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(seeded_runs / "size_6_seed_1")
    foreign, link = tmp_path / "notes.html", tmp_path / "link.html"
    foreign.write_text("<!DOCTYPE html>\nmine")
    link.symlink_to(foreign)
    for path in (foreign, link, tmp_path):
        assert main(["report", one, f"--out={path}"]) == 2
        message = capsys.readouterr().err
        why = "is a folder" if path is tmp_path else "was not written by charlm"
        assert why in message and message.count("\n") == 1
    assert foreign.read_text() == "<!DOCTYPE html>\nmine"
    (tmp_path / "page.html.partial").symlink_to(foreign)
    write_page(tmp_path / "page.html", title="a", sections=[])
    assert foreign.read_text() == "<!DOCTYPE html>\nmine"


def test_the_command_chooses_the_place(
    seeded_runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written = []
    monkeypatch.setattr(
        "charlm_jax.report.runs_page.write_report",
        lambda runs, path, protocol, **rest: written.append(
            (len(runs), str(path), rest["command"])
        ),
    )
    one, other = (str(seeded_runs / f"size_6_seed_{seed}") for seed in SEEDS)
    for asked, place, count in (
        ([one], f"{one}/report.html", 1),
        ([str(seeded_runs)], f"{seeded_runs}/report.html", 4),
        ([one, other, "--mode=stream"], "report.html", 2),
        ([one, "--out=a b/c.html"], "a b/c.html", 1),
    ):
        assert main(["report", *asked]) == 0
        command = shlex.join(["charlm", "report", *asked])
        assert written.pop() == (count, place, command)
        assert capsys.readouterr().out == f"{place}\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """A run on a text full of traps that holds some out, and one that holds nothing out."""
    folder = tmp_path_factory.mktemp("hostile")
    corpus = folder / "</title><b>&.txt".replace("/", "\u2215")
    corpus.write_text(HOSTILE * 60, encoding="utf-8")
    runs = []
    for kind in ("tail", "none"):
        changes = {"data.corpus": str(corpus), "train.max_steps": 4, "split.kind": kind}
        place = folder / f"<i>{kind}&"
        train_and_evaluate(make_tiny_config(**changes), place)
        runs.append(load_run(place))
    return runs[0], runs[1]


@pytest.fixture(scope="module")
def hostile_file(hostile: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(hostile[:1], tmp_path_factory.mktemp("hostile") / "page.html")


def test_texts_are_coloured_by_the_units_that_were_picked(
    hostile: tuple[Run, Run], hostile_file: Path
) -> None:
    data = hostile_file.read_text(encoding="utf-8")
    dataset = load_dataset(hostile[0].config)
    found = corpus_units(hostile[0], dataset, "valid", label="x")
    assert found is not None and found.ranking.picks
    (valid,) = dataset.part("valid")
    assert all(pick.shown.start in valid for pick in found.ranking.picks)
    start = data.index("<h2>Text coloured by one unit</h2>")
    section = data[start : data.index("<h2>", start + 1)]
    assert section.count('<div class="heat"') == len(found.ranking.picks)
    for pick in found.ranking.picks:
        assert f"unit {pick.unit} (cell) of layer 0 (lstm)" in section
        assert f"<td>{format_percent(pick.tested_auc)}</td>" in section
    assert f"Each of the {found.ranking.units} recurrent units" in section
    assert "which played no part in the choice" in section


def test_a_text_cannot_act_upon_the_page(hostile: tuple[Run, Run], hostile_file: Path) -> None:
    page = read(hostile_file)
    assert Counter(node.tag for node in page.nodes)["html"] == 1
    assert len(page.comments) == 1
    assert all("b" not in node.path or node.tag == "b" for node in page.nodes)
    data = hostile_file.read_text(encoding="utf-8")
    forbidden = set("\x07\x0b\x7f\u202e\u202c\u2028\ufeff\ufffe\U0001ffff")
    assert not forbidden & set(data)
    dataset = load_dataset(hostile[0].config)
    passage = choose_passage(dataset.corpus.text, dataset.part("valid"))
    (cells,) = heat_maps(page)
    assert len(cells) == len(passage)
    shown = "".join(text for path, text in page.words if path[-2:] == ("details", "div"))
    for words in ("</script><script>alert(1)</script>", "&amp;", "مرحبا", "你好，世界。"):
        assert words in shown
    assert r"\u202eabc\u202c" in shown and r"\x07\x0b\x7f" in shown


def test_classes_of_sparse_targets_have_intervals_over_blocks_of_text(runs: list[Run]) -> None:
    dataset = load_dataset(runs[0].config)
    scores = find_scores(compare(runs[:1], Sliding(3, 210)), dataset)
    (cells,) = scores.classes
    assert np.isfinite(max(cells, key=lambda cell: cell.characters).interval.low)


def test_a_run_that_holds_nothing_out_has_no_held_out_figure(
    hostile: tuple[Run, Run], tmp_path: Path
) -> None:
    page = read(write_report(hostile[1:], tmp_path / "page.html"))
    text = page.text()
    assert "These runs have no held-out text" in text and "95 %" not in text
    assert "A character-level language model (" in text
    assert "No text was held out, so how well it predicts new text is not known." in text
    assert "The model was trained on this text" in text
    assert len(heat_maps(page)[0]) == PASSAGE
    page = read(write_report(hostile[1:], tmp_path / "train.html", split="train"))
    assert "training text, " in page.text() and "95 %" in page.text()
    assert "On the text that it was trained on it needs" in page.text()
    with pytest.raises(CharlmError, match="has no held-out text"):
        write_report(hostile[1:], tmp_path / "test.html", split="test")
    with pytest.raises(CharlmError, match="has no held-out text"):
        write_report(hostile[1:], tmp_path / "window.html", Window(4))
    with pytest.raises(
        CharlmError, match=r"cannot be compared: .*; losses are compared on the same"
    ):
        write_report([hostile[1], hostile[0]], tmp_path / "both.html")
    with pytest.raises(CharlmError, match="no runs to report on"):
        write_report([], tmp_path / "none.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "train.html"]


@pytest.mark.exhaustive
def test_averages_and_learned_positions_have_their_page(tmp_path: Path) -> None:
    changes = {
        "model.layers": ("attention",),
        "model.position": "learned",
        "model.max_length": 8,
        "optimizer.average_decay": 0.5,
        "train.max_steps": 10,
    }
    train_and_evaluate(make_tiny_config(**changes), tmp_path / "run")
    run = load_run(tmp_path / "run")
    page = read(write_report([run], tmp_path / "page.html"))
    assert run.checkpoint_label == "checkpoint 10, averaged weights"
    assert "step 10, averaged weights" in page.text()
    assert "dotted, with hollow markers: raw weights" in page.text()
    assert "Context: the 8 characters before it" in page.text()
    dataset = load_dataset(run.config)
    (valid,) = dataset.part("valid")
    score = run.score(dataset.corpus.text[valid.start - 8 :], Sliding(8, targets=0))
    shown = [value for _, value in heat_maps(page)[0]]
    np.testing.assert_allclose(shown, score.nll_N / np.log(2), atol=6e-3)


def test_a_study_adds_what_it_has(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"rest"
    blocks = ["a < b", Picture(png, alt='the "curve"'), Table(["x", "y"], [["1", "<2>"]], "c")]
    page = read(write_page(tmp_path / "a.html", title="A & B", sections=[Section("More", blocks)]))
    assert "a < b" in page.text() and "<2>" in page.text() and page.text("title") == "A & B"
    (image,) = page.all("img")
    assert image.attributes["alt"] == 'the "curve"'
    assert str(image.attributes["src"]).startswith("data:image/png;base64,")
    with pytest.raises(CharlmError, match="PNG"):
        write_page(tmp_path / "b.html", title="", sections=[Section("", [Picture(b"GIF", "")])])


def test_windows_of_several_lengths_have_all_their_ranges_and_no_common_counts(
    runs: list[Run],
) -> None:
    found = gather(runs)
    assert found.scores is not None
    first, *others = found.scores.by_position
    last = first[-1]
    cut = [*first[:-1], last._replace(last=last.last - 1, cell=last.cell._replace(label="cut"))]
    length = found.scores.windows[0]
    windows = [length - 1, *found.scores.windows[1:]]
    several = found.scores._replace(by_position=[cut, *others], windows=windows)
    for scores, has_counts in ((found.scores, True), (several, False)):
        table = score_sections._position_table(scores)
        assert ("characters" in table.columns) == has_counts
        assert len(table.rows) == len(first) + (not has_counts)
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_many_runs_stay_small(runs: list[Run], tmp_path: Path) -> None:
    found = gather(runs)
    groups, scores = [*found.groups] * 10, found.scores
    assert scores is not None
    by_group = ("rows", "means", "trained", "windows", "by_position", "classes")
    scores = scores._replace(**{name: [*getattr(scores, name)] * 10 for name in by_group})
    long = [(step, 2.0) for step in range(1, 20_000)]
    groups = [
        group._replace(runs=[run._replace(training=long) for run in group.runs]) for group in groups
    ]
    differing = {field: [*values] * 10 for field, values in found.differing.items()}
    found = found._replace(
        groups=groups, scores=scores, samples=[*found.samples] * 10, differing=differing
    )
    page = describe(found)
    path = write_page(tmp_path / "a.html", title=page.title, sections=page.sections)
    read(path)
    assert path.stat().st_size < 1_500_000


def test_what_is_text_is_escaped_and_what_is_markup_is_not(tmp_path: Path) -> None:
    hostile = "<&>\"'\ud800\x00\r\u2067a\u200db\u00a0"
    escaped = "&lt;&amp;&gt;&#34;&#39;\\ud800\\x00\\r\\u2067a\u200db\u00a0"
    bold = Markup("<b>{}</b>").format(hostile)
    table = Table([hostile, bold], [[hostile, bold]], hostile, more_rows=[[bold, hostile]])
    picture = Picture(b"\x89PNG\r\n\x1a\n", alt=hostile, caption=hostile)
    folded = details(hostile, hostile, bold, table, picture)
    blocks = [hostile, bold, table, picture, folded]
    section = Section(hostile, blocks)
    path = write_page(tmp_path / "a.html", title=hostile, lead=blocks, sections=[section])
    data = path.read_bytes().decode("utf-8")
    Page(data)
    assert not {"\x00", "\r", "\u2067"} & set(data) and "&amp;lt;" not in data
    # Twice the title, and the heading; in each of four lists a paragraph, the bold one, a table of
    # six cells with its caption and label, alt and caption of a picture; two summaries.
    assert data.count(escaped) == 3 + 4 * (1 + 1 + 8 + 2) + 2
    assert data.count(f"<b>{escaped}</b>") == 4 * (1 + 3)


def test_every_value_of_a_template_is_escaped() -> None:
    environment = rendering._ENVIRONMENT
    assert environment.autoescape is True and environment.loader is not None
    names = environment.list_templates()
    assert {"page.html.j2", "blocks.html.j2", "charts.svg.j2", "page.css"} <= set(names)
    for name in names:
        source, *_ = environment.loader.get_source(environment, name)
        assert not re.search(r"\|\s*safe\b|autoescape", source), name


def test_a_row_has_a_cell_for_every_column(tmp_path: Path) -> None:
    for rows, more in (([["a"]], ()), ([["a", "b"]], [["a", "b", "c"]])):
        blocks = [Table(["x", "y"], rows, "c", more_rows=more)]
        with pytest.raises(CharlmError, match="of 2 columns has a row of"):
            write_page(tmp_path / "a.html", title="", sections=[Section("", blocks)])
    assert not (tmp_path / "a.html").exists()


def test_the_passage_is_the_middle_from_a_lines_start() -> None:
    text = ("x" * 99 + "\n") * 100
    for part in ((range(2000, 10_000),), (range(0, 500), range(600, 9000))):
        passage = choose_passage(text, part)
        assert len(passage) == PASSAGE and text[passage.start - 1] == "\n"
        assert any(passage.start in x and passage.stop - 1 in x for x in part)
        whole = [n for x in part for n in x]
        middle = whole.index(passage.start) + PASSAGE // 2
        assert abs(middle - len(whole) // 2) <= 100
    assert choose_passage("x" * 9000, (range(0, 9000),)) == range(4001, 5001)  # one line
    assert choose_passage(text, (range(0, 40),)) == range(1, 40)  # the first has no predictor
    assert choose_passage(text, (range(37, 38),)) == range(37, 38)


def test_a_prompt_is_whole_words() -> None:
    text = "one two three, " * 20
    assert first_words(text, (range(0, 300),)) == "one two three, one two three, one two three"
    assert first_words(text, (range(1, 300),)) == "two three, one two three, one two three,"
    assert first_words("x" * 99, (range(9, 99),)) == "x" * 40
    assert first_words("x" * 99, (range(98, 99),)) == "x"
    assert first_words("ab", (range(1, 2),)) == "b"


def test_a_prompt_of_bytes_is_whole_characters() -> None:
    for text in ("Ж" * 60, "日" * 60, "naïve “café” Harding’s garden, " * 4, "𝄞" * 60):
        symbols = text.encode().decode("latin-1")
        for start in range(1, 40):
            for stop in (start + 10, len(symbols) - 1, len(symbols)):
                found = first_words(symbols, (range(start, stop),), unit="bytes")
                found.encode("latin-1").decode()
                assert found and len(found) <= 60
    binary = "\x80" * 99
    assert first_words(binary, (range(9, 99),), unit="bytes") == "\x80" * 40


@pytest.mark.parametrize("spec", ["quickstart", "my_text:/a folder/it's.txt"])
def test_the_command_trains_the_same_run(spec: str) -> None:
    point, overrides = ["model.layers=lstm,gru", "seed=9"], ["seed=8", "train.init_from=/a 'run'"]
    facts = {"config_spec": spec, "point": point, "overrides": overrides}
    words = shlex.split(train_command(facts, "runs/a b"))
    assert words[:2] == ["charlm", "train"] and words[3] == "--workdir=runs/a b"
    texts = [word.removeprefix("--config.") for word in words[4:]]
    config = load_config(words[2].removeprefix("--config="), texts)
    assert config == load_config(spec, [*point, *overrides])
    assert train_command({"config_spec": spec, "point": None}, "a") == shlex.join(
        ["charlm", "train", f"--config={spec}", "--workdir=a"]
    )


@pytest.mark.parametrize("facts", [{}, {"config_spec": None, "point": None, "overrides": None}])
def test_a_run_without_a_command_is_named_by_its_config(facts: dict[str, None]) -> None:
    """A comment to a shell: the commands are copied and pasted together."""
    assert train_command(facts, "a\nb") == "# no command recorded: a\\nb/config.json"
    assert not shlex.split(train_command(facts, "it's"), comments=True)


def test_the_page_names_commands_and_configs(file: Path, runs: list[Run]) -> None:
    """These runs were trained from Python."""
    text = file.read_text(encoding="utf-8")
    for run in runs:
        assert f"# no command recorded: {run.workdir}/config.json" in text


def luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance", of `#rrggbb`."""
    channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_read(theme: str, tmp_path: Path) -> None:
    rules = read(write_page(tmp_path / "a.html", title="", sections=[])).text("style")
    if theme == "dark":
        media = r"@media \(prefers-color-scheme: dark\) \{(.*?)\n\}"
        rules = "".join(re.findall(media, rules, re.DOTALL))

    def one(pattern: str) -> tuple[str, ...]:
        match = re.search(pattern, rules)
        assert match is not None, pattern
        return match.groups()

    (page,), (ink,), (soft,) = (one(rf"--{name}: (#\w{{6}});") for name in ("page", "ink", "soft"))
    assert min(contrast(ink, page), contrast(soft, page)) >= 4.5
    inks = {"black": "#000000", "white": "#ffffff"}
    for number, colour in enumerate(SURPRISE[theme], start=1):
        assert one(rf"\.h{number} {{ background: (#\w{{6}}); }}") == (colour,)
        assert contrast(ink, colour) >= 4.5, colour
    differences = []
    for level in range(DIFFERENCE_LEVELS + 1):
        ground, text = one(rf"\.d{level} {{ background: (#\w{{6}}); color: (\w+); }}")
        assert contrast(inks[text], ground) >= 4.5, level
        differences.append(ground)
    middle = DIFFERENCE_LEVELS // 2
    for steps in (
        [page, *SURPRISE[theme]],
        differences[middle:],
        differences[middle::-1],
    ):
        values = [contrast(ground, page) for ground in steps]
        assert values[0] == 1.0
        assert values == sorted(values) and len(set(values)) == len(values)
    for number, colour in enumerate(PAGE_SERIES[theme]):
        assert one(rf"\.s{number} {{ --series: (#\w{{6}}); }}") == (colour,)
        assert contrast(colour, page) >= 3.0, colour
    assert len({len(series) for series in (*PAGE_SERIES.values(), FIGURE_SERIES)}) == 1


def test_axes_show_all_their_values() -> None:
    for values in ([1.0, 2.2], [-3, 7], [2.5, 2.5], [0, 0], [1e-7, 2e-7], [1, 1e9]):
        axis = linear_axis("", values)
        assert all(-1e-9 <= axis.fraction(v) <= 1 + 1e-9 for v in values)
        assert 2 <= len(axis.ticks) <= 8
        assert axis.fraction(axis.low) == 0 and axis.fraction(axis.high) == 1
    for high in (1, 2, 40, 100_000):
        axis = doubling_axis("", 1, high)
        assert axis.fraction(1) == 0 and 0 < axis.fraction(max(high, 2)) <= 1
        assert axis.ticks and all(0 <= axis.fraction(tick) <= 1 for tick in axis.ticks)
