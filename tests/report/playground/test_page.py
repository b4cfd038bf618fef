"""The page of the playground: its data are the model's, and only our own code runs in it."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from py_mini_racer import MiniRacer

from charlm_jax.cli import main
from charlm_jax.core.errors import CharlmError
from charlm_jax.core.tree_hash import content_hash
from charlm_jax.core.trees import leaves_by_path
from charlm_jax.inference.export import write_export
from charlm_jax.inference.run import Run, load_run
from charlm_jax.report.html.heat_text import LEVELS
from charlm_jax.report.html.page import is_page, write_page
from charlm_jax.report.html.rendering import format_percent
from charlm_jax.report.palette import SECOND_HUE, SURPRISE
from charlm_jax.report.playground import page
from charlm_jax.report.playground.held_out import HeldOut
from charlm_jax.report.playground.model_data import PRECISIONS
from charlm_jax.report.playground.page import playground, playground_html, write_playground
from charlm_jax.report.playground.scripts import APP, ENGINE, join_scripts, read_file
from tests.conftest import make_tiny_config
from tests.inference.test_export import build_run
from tests.report.test_plots import Frame
from tests.report.test_runs_page import HOSTILE, Page, contrast

FIGURES = HeldOut(1.672, ngram=2.054, order=8, xz=2.401, training=12345, context=64)
SCRIPT = re.compile(r"<script( type=\"([^\"]*)\" id=\"(\w+)\")?>(.*?)</script>", re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a text whose name and symbols are markup."""
    folder = tmp_path_factory.mktemp("hostile")
    corpus = folder / "<b onclick='x'>&amp;.txt"
    corpus.write_text(HOSTILE * 40, encoding="utf-8")
    return build_run(folder / "run", make_tiny_config(**{"data.corpus": str(corpus)}))


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return playground_html(run, held_out=FIGURES)


def scripts(html: str) -> dict[str, str]:
    """Content of the page's script elements: `model`, `weights`, and `` for the code."""
    return {name: content for _, _, name, content in SCRIPT.findall(html)}


def test_the_data_are_the_model(run: Run, html: str) -> None:
    found = scripts(html)
    description = json.loads(found["model"])
    weights = base64.b64decode(found["weights"], validate=True)
    assert "".join(map(chr, description["symbols"])) == run.vocabulary.symbols
    leaves = leaves_by_path(run.params, separator=".")
    assert [tensor["name"] for tensor in description["tensors"]] == list(leaves)
    for tensor in description["tensors"]:
        size = int(np.prod(tensor["shape"]))
        array = np.frombuffer(weights, "<f4", size, tensor["offset"]).reshape(tensor["shape"])
        np.testing.assert_array_equal(array, leaves[tensor["name"]])
    assert content_hash(run.params) in html


def test_the_policy_allows_our_style_and_code_alone(html: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert policy and style
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    for kind, code in (("script-src", scripts(html)[""]), ("style-src", style[1])):
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert rules.pop(kind) == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}


def test_a_text_brings_no_markup(run: Run, html: str, tmp_path: Path) -> None:
    plain = playground_html(build_run(tmp_path / "run", make_tiny_config()), held_out=FIGURES)
    other = Page(plain)
    beginning = html.splitlines()[:8]  # with the policy and so the hash of the script
    assert "Content-Security-Policy" in beginning[5] and beginning == plain.splitlines()[:8]
    elements = [(node.tag, *sorted(node.attributes)) for node in Page(html).nodes]
    assert elements == [(n.tag, *sorted(n.attributes)) for n in other.nodes]
    for node in Page(html).nodes:
        assert not [name for name in node.attributes if name == "style" or name.startswith("on")]
        assert not {"src", "href", "action"} & set(node.attributes)


def test_the_code_is_ours_and_can_be_read() -> None:
    for name in (*ENGINE, *APP):
        code = read_file(name)
        assert code.startswith("// SPDX-License-Identifier: Apache-2.0\n"), name
        assert max(map(len, code.splitlines())) <= 100, name
        assert not re.search(
            "</script|<!--|innerHTML|outerHTML|insertAdjacentHTML|eval|fetch|XMLHttp|Beacon|Socket|RTC"
            "|location|history|navigator|open\\(|import\\(|Worker|postMessage",
            code,
        )
        assert code.isascii() or name in APP
    used = {path.relative_to(path.parents[1]).as_posix() for path in FOLDER.rglob("*.js")}
    assert used == {*ENGINE, *APP}


def test_the_code_is_valid(html: str) -> None:
    context = MiniRacer()
    context.eval("function check(code) { return typeof new Function(code); }")
    assert context.call("check", scripts(html)[""]) == "function"


def test_numbers_are_shown_as_colours_and_words() -> None:
    context = MiniRacer()
    context.eval(join_scripts([*ENGINE, *(name for name in APP if name != "app/main.js")]))

    def call(code: str) -> object:
        return json.loads(context.eval(f"JSON.stringify({code})"))

    assert call("[0, 0.9, 7.6, 99].map((bits) => surpriseClass({ bits }))") == [
        *("s0", "s1", "s8", "s8"),
    ]
    assert call("surpriseClass({ bits: null })") == "given"
    assert call("[-1, -0.01, 0, 0.5, 1].map(shareClass)") == ["n8", "s0", "s0", "s4", "s8"]
    shares = [*(n / 9973 for n in range(0, 9974, 7)), 1.0, 0.9996, 0.9994, 2e-4, 1e-4, 1e-9]
    assert call(f"{shares}.map(formatPercent)") == [*map(format_percent, shares)]
    assert call("[0, 2, Infinity].map((scale) => describeScale(scale, 'character'))") == [
        "scale 0 · uniform over all characters",
        "scale 2 · temperature 0.5",
        "greedy · always the most probable character",
    ]
    scales = call("SCALES.slice(1, -1)")
    assert isinstance(scales, list) and scales == sorted(scales)
    assert (scales[0], scales[-1]) == (0.25, 5)
    labels = call(
        "colourings({ layers: [{ units: ['forget_gate'], heads: 0 }, { units: [], heads: 1 }] })"
        ".map(({ label }) => label)"
    )
    assert call(
        "[['lstm', 'cell'], ['slstm', 'cell'], ['lstm', 'hidden']].map((x) => isShownAsTanh(...x))"
    ) == [True, False, False]
    assert labels == ["surprise", "layer 0: forget gate", "layer 1: attention, head 0"]


def test_levels_are_those_of_the_code() -> None:
    assert f"const LEVELS = {LEVELS};" in read_file("app/text_view.js")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_on_every_colour(theme: str, html: str) -> None:
    style = re.search("<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    dark = "".join(re.findall(r"(?s)@media \(prefers-color-scheme: dark\) \{(.*?)\n\}", style[1]))
    rules = style[1] if theme == "light" else dark
    page, ink, soft = (
        re.search(rf"--{name}: (#\w{{6}});", rules)[1]  # type: ignore[index]
        for name in ("page", "ink", "soft")
    )
    for letter, colours in {"s": SURPRISE[theme], "n": SECOND_HUE[theme]}.items():
        found = re.findall(rf"\.{letter}\d {{ background: (#\w{{6}}); }}", rules)
        assert found[:LEVELS] == [*colours]
        values = [contrast(colour, page) for colour in (page, *colours)]
        assert values == sorted(values)
        assert min(contrast(ink, colour) for colour in colours) >= 4.5
        assert min(contrast(soft, colour) for colour in (page, *colours[:2])) >= 4.5  # faint signs


def test_the_page_is_hardly_larger_than_the_weights(run: Run) -> None:
    for precision in PRECISIONS:
        page = playground_html(run, precision=precision, held_out=FIGURES)
        weights = len(base64.b64decode(scripts(page)["weights"]))
        assert len(page.encode()) <= 1.4 * weights + 95_000


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(run: Run, html: str) -> None:
    frame = Frame(playground(run, held_out=FIGURES))
    assert frame.tags == ["iframe"] and frame.page == html
    assert frame.attributes["sandbox"] == "allow-scripts"  # and no other permission


def test_an_export_gives_the_same_page(run: Run, html: str, tmp_path: Path) -> None:
    write_export(run, tmp_path / "export")
    assert playground_html(load_run(tmp_path / "export"), held_out=FIGURES) == html


def test_a_tilde_is_the_home_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert page.page_file(run, "~/new/page.html") == tmp_path / "new" / "page.html"
    assert write_page("~/report.html", title="a title", sections=[]) == tmp_path / "report.html"
    assert is_page(tmp_path / "report.html")


def test_a_file_is_never_overwritten(run: Run, html: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / "model.html"
    assert write_playground(run, file, held_out=FIGURES) == file
    assert file.read_text(encoding="utf-8") == html
    write_playground(run, file, held_out=FIGURES)
    assert page.page_file(run, file) == file
    for words, refuse in ((html[:-1], write_playground), ("mine", page.page_file)):
        file.write_text(words)
        more = {"held_out": FIGURES} if refuse is write_playground else {}
        with pytest.raises(CharlmError, match=r"already exists .* or name another file"):
            refuse(run, file, **more)
    assert file.read_text() == "mine"
    with pytest.raises(CharlmError, match="is a folder"):
        write_playground(run, tmp_path, held_out=FIGURES)


def test_the_top_says_what_the_model_is(run: Run, html: str) -> None:
    title = run.config.data.corpus.rpartition("/")[2]
    symbols = len(run.vocabulary)
    about = Page(html).text("p")
    assert about.startswith("A character-level language model (1 LSTM layer; ")
    assert (
        f"parameters), trained on passages from 12,345 characters of {title}. It predicts" in about
    )
    assert f"and knows {symbols} characters. On held-out text it needs 1.67 bits per" in about
    assert "character, an 8-gram 2.05, xz 2.40. Lower is better." in about
    assert "had read at most 64 others" in Page(html).text("dd")


def test_the_command_writes_into_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", f"--workdir={run.workdir}", "--to=html"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    file = run.workdir / "export" / f"step_{run.checkpoint}.html"
    assert lines[-1] == str(file)
    assert lines[-2] == f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert main([*command, "--precision=int8", "--no_baselines"]) == 0
    assert (run.workdir / "export" / f"step_{run.checkpoint}_int8.html").is_file()
    printed = capsys.readouterr().out
    assert "what that costs was not measured" in printed and "baselines" not in printed


FOLDER = Path(page.__file__).parent
