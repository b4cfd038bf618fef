"""The page of the playground does what its fields and texts promise, in a small fake document."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import JSEvalException, MiniRacer

from charlm_jax.core.visible_text import visible_line
from charlm_jax.inference.run import Run
from charlm_jax.report.html.heat_text import sign
from charlm_jax.report.playground.held_out import HeldOut
from charlm_jax.report.playground.page import playground_html
from charlm_jax.report.playground.scripts import APP, ENGINE, join_scripts
from tests.conftest import make_tiny_config
from tests.inference.test_export import build_run
from tests.report.test_runs_page import HOSTILE, Page

FAKE_DOM = (Path(__file__).parent / "fake_dom.js").read_text(encoding="utf-8")
LENGTH = 70  # of a sample; longer than the distance of two marks of a trail
SCRIPT = re.compile(r"<script(?: type=\"[^\"]*\" id=\"(\w+)\")?>(.*?)</script>", re.DOTALL)


class Browser:
    """A document with the elements and data of a page; `start` runs its script."""

    def __init__(self, html: str, **values: str) -> None:
        self._context = MiniRacer()
        self._context.eval(FAKE_DOM)
        names = ("value", "min", "max", "step", "type")
        for node in Page(html).nodes:
            if (name := node.attributes.get("id")) is not None:
                given = {key: node.attributes[key] for key in names if key in node.attributes}
                given |= {"defaultValue": given.get("value", "")}
                self.do(f"addNode({json.dumps(name)}, {json.dumps(given)})")
        scripts = dict(SCRIPT.findall(html))
        for name in ("model", "weights"):
            self.do(f"get('{name}').textContent = {json.dumps(scripts[name])}")
        for name, value in {"own_colour": "0", "length": str(LENGTH), **values}.items():
            self.do(f"get('{name}').value = {json.dumps(value)}")
        self._script = scripts[""]

    def start(self) -> None:
        self._context.eval(self._script)
        self.settle()

    def do(self, code: str) -> None:
        self._context.eval(code + "\n;0")

    def get(self, code: str) -> Any:
        return json.loads(self._context.eval(f"JSON.stringify({code})"))

    def settle(self) -> None:
        """Run all timers, and what waits for them."""
        for _ in range(10_000):
            if not self.get("runTimers()"):
                return
        raise AssertionError("the page never rests")

    def enter(self, name: str, value: str, event: str = "input") -> None:
        self.do(f"get('{name}').value = {json.dumps(value)}; get('{name}').dispatch('{event}')")
        self.settle()

    def read(self, text: str) -> None:
        self.do(f"get('own_text').value = {json.dumps(text)}; get('own_read').dispatch('click')")
        self.settle()

    @property
    def text(self) -> str:
        """The first column's text, with newlines in place of their signs."""
        return str(self.get("cells().map((x) => x.textContent).join('')")).replace("↵", "\n")

    @property
    def status(self) -> str:
        return str(self.get("columnParts(0)[4].textContent"))

    @property
    def panel(self) -> dict[str, Any]:
        return dict(self.get("panelOf(columnParts(0)[5])"))

    @property
    def own_cells(self) -> list[list[str]]:
        """Text and class of each cell of the text that was read."""
        return list(self.get("cellsOf(get('own_view')).map((x) => [x.textContent, x.className])"))


def open_page(run: Run, **values: str) -> Browser:
    browser = Browser(playground_html(run, held_out=HeldOut(None)), **values)
    browser.start()
    return browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def make_run(folder: Path, name: str, text: str, **changes: Any) -> Run:
    corpus = folder / f"{name}.txt"
    corpus.write_text(text, encoding="utf-8")
    return build_run(folder / name, make_tiny_config(**{"data.corpus": str(corpus)}, **changes))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """A hybrid whose texts have many lines."""
    changes = {"model.layers": ("lstm", "attention"), "model.heads": 2}
    return make_run(folder, "hybrid", "ab\ncd ef\n" * 40, **changes)


@pytest.fixture(scope="module")
def sample(run: Run) -> str:
    return run.generate("abc", characters=LENGTH, seed=1)


@pytest.fixture
def browser(run: Run) -> Browser:
    return open_page(run, prompt="abc")


def test_the_page_shows_the_text_of_the_run(run: Run, browser: Browser, sample: str) -> None:
    assert browser.text == "abc" + sample and "\n" in sample
    assert re.fullmatch(r"\d+\.\d\d bits of surprise per character · \d+ .*", browser.status)
    browser.do("get('another').dispatch('click')")
    browser.settle()
    assert browser.get("get('seed').value") == 2
    assert browser.text == "abc" + run.generate("abc", characters=LENGTH, seed=2)
    browser.enter("seed", "1")
    browser.do("columnParts(0)[1].value = 18; columnParts(0)[1].dispatch('input')")  # scale 2
    browser.settle()
    assert browser.text == "abc" + run.generate("abc", characters=LENGTH, seed=1, scale=2.0)
    assert browser.get("get('failure').textContent") == ""


def test_a_tap_opens_a_panel_with_what_was_expected(browser: Browser, sample: str) -> None:
    assert not browser.panel["isOpen"]
    browser.do("cells()[9].dispatch('click')")
    panel = browser.panel
    symbol = ("abc" + sample)[9]
    named = {" ": "␣ space", "\n": "↵ new line"}.get(symbol, symbol)
    assert panel["isOpen"] and panel["heading"].startswith(f"“{named}”: ")
    assert 5 <= len(panel["rows"]) <= 6 and sum(panel["marked"]) == 1
    marked = panel["rows"][panel["marked"].index(True)]
    assert marked.startswith(f"▸ {named}")
    rank = int(re.search(r"rank (\d+) of", panel["heading"])[1])  # type: ignore[index]
    assert panel["marked"].index(True) == min(rank, 6) - 1
    shares = [float(re.search(r"([\d.]+) %$", row)[1]) for row in panel["rows"]]  # type: ignore[index]
    assert shares == sorted(shares, reverse=True)
    assert browser.get("scrolled === cells()[9]")  # the keys bring it into view as well
    browser.do("columnParts(0)[3].dispatch('keydown', { key: 'ArrowRight' })")
    assert browser.get("scrolled === cells()[10] && cells()[10].className.includes('chosen')")
    browser.do("columnParts(0)[5].childNodes[0].childNodes[0].dispatch('click')")  # Previous
    assert browser.panel == panel
    browser.do("columnParts(0)[5].childNodes[0].childNodes[2].dispatch('click')")  # Close
    assert not browser.panel["isOpen"] and browser.panel["rows"] == []
    assert not browser.get("cells().some((x) => x.className.includes('chosen'))")
    browser.do("cells()[0].dispatch('click')")
    assert "was given" in browser.panel["heading"]
    browser.do("columnParts(0)[3].dispatch('keydown', { key: 'Escape' })")
    assert not browser.panel["isOpen"]


@pytest.mark.parametrize("place", [4, 65])
def test_a_branch_keeps_the_text_before_it(browser: Browser, place: int) -> None:
    before = browser.text
    browser.do(f"const kept = cells().slice(0, {place})")
    browser.do(f"cells()[{place}].dispatch('click')")
    list_ = "columnParts(0)[5].childNodes[2]"
    marked = browser.panel["marked"]
    other = marked.index(False)
    name = browser.get(f"{list_}.childNodes[{other}].childNodes[0].childNodes[0].textContent")
    browser.do(f"{list_}.childNodes[{other}].childNodes[0].dispatch('click')")
    browser.settle()
    symbol = {"␣ space": " ", "↵ new line": "\n"}.get(name, name)
    assert browser.text[: place + 1] == before[:place] + symbol
    assert len(browser.text) == len(before)
    assert browser.get("kept.every((cell, i) => cells()[i] === cell)")
    assert "branches taken: 1" in browser.status
    assert browser.panel["heading"].startswith(f"“{name}”")
    lines = browser.text.split("\n")
    shown = browser.get("columnParts(0)[3].childNodes.map((x) => x.textContent)")
    assert shown == [f"{line}↵" for line in lines[:-1]] + lines[-1:] * (lines[-1] != "")
    # What is expected after the branch is what is expected when the whole text is read anew.
    browser.read(browser.text)
    browser.do(f"cells()[{place + 3}].dispatch('click')")
    browser.do(f"cellsOf(get('own_view'))[{place + 3}].dispatch('click')")
    anew = browser.get("panelOf(get('own_predictions').childNodes[0])")
    assert browser.panel["rows"] == anew["rows"] and len(anew["rows"]) >= 5
    for _ in range(2):  # the first is ended by the second
        browser.do("columnParts(0)[1].dispatch('input')")
    browser.settle()
    assert browser.text == before and browser.status.endswith("without the branch that you took.")
    browser.do("columnParts(0)[1].dispatch('input')")
    browser.settle()
    assert browser.text == before and "branch" not in browser.status


def test_lines_end_with_a_sign_that_can_be_chosen(browser: Browser) -> None:
    index = browser.text.index("\n", 3)
    assert browser.get(f"cells()[{index}].attributes['data-sign']") == ""
    browser.do(f"cells()[{index}].dispatch('click')")
    assert browser.panel["heading"].startswith("“↵ new line”")
    assert browser.get("cells().filter((x) => 'data-sign' in x.attributes).length") == (
        browser.text.count("\n")
    )


def test_fields_show_the_number_that_is_used(browser: Browser) -> None:
    for name, value, used in (("length", "0", 1), ("top_p", "7", 1), ("seed", "2.7", 2)):
        browser.enter(name, value, "change")
        assert browser.get(f"get('{name}').value") == used
    browser.enter("prompt", "")
    assert browser.text == ""
    assert browser.get("get('prompt_status').textContent").endswith("that the model knows.")
    browser.enter("prompt", "xa")
    assert "does not know them: “x”." in browser.get("get('prompt_status').textContent")


def test_a_text_of_ones_own_is_read_and_coloured(browser: Browser) -> None:
    browser.do("changes = []")
    text = "ab\ncd ef\n" * 4
    browser.read(text)
    said = [words for name, words in browser.get("changes") if name == "own_status" and words]
    assert len(said) == 1  # a screen reader is not told of every slice
    assert re.fullmatch(r"\d+\.\d\d bits of surprise per character\.", said[0])
    assert "".join(text for text, _ in browser.own_cells) == text.replace("\n", "↵")
    labels = browser.get("get('own_colour').childNodes.map((x) => x.textContent)")
    browser.enter("own_colour", str(labels.index("layer 0: cell")))
    assert "tanh of the cell" in browser.get("get('own_about').textContent")
    ends = browser.get("get('own_legend').childNodes.filter((x) => typeof x === 'string')")
    assert -1 <= float(ends[0]) < 0 < float(ends[1]) <= 1
    assert browser.get("get('own_unit_label').textContent") == "Unit, 0 to 5"
    browser.enter("own_colour", str(labels.index("layer 1: attention, head 1")))
    ends = browser.get("get('own_legend').childNodes.filter((x) => typeof x === 'string')")
    assert ends[0] == "0 %" and re.fullmatch(r"\d+(\.\d)? %", ends[1])
    assert browser.own_cells[-1][1].startswith("s")
    assert not browser.get("get('own_legend').hidden")
    # The colours of a chosen character go with it.
    colours = browser.own_cells
    browser.do("cellsOf(get('own_view'))[2].dispatch('click')")
    assert browser.own_cells[3:] != colours[3:]
    browser.do("get('own_view').dispatch('keydown', { key: 'Escape' })")
    assert browser.own_cells == colours


def test_a_layer_with_fewer_units_changes_the_number_that_is_shown(folder: Path) -> None:
    changes = {"model.layers": ("mamba2", "lstm"), "model.heads": 2}
    browser = open_page(make_run(folder, "two_widths", "ab\ncd ef\n" * 40, **changes))
    browser.read("ab\ncd")
    labels = browser.get("get('own_colour').childNodes.map((x) => x.textContent)")
    for label, typed, last in (("layer 0: hidden", "11", 11), ("layer 1: cell", "11", 5)):
        browser.enter("own_unit", typed)
        browser.enter("own_colour", str(labels.index(label)))
        assert browser.get("get('own_unit_label').textContent") == f"Unit, 0 to {last}"
        assert int(browser.get("get('own_unit').value")) == last


def test_bytes_are_named_as_bytes(folder: Path) -> None:
    run = make_run(folder, "bytes", "é ü ab\n" * 60, **{"data.unit": "bytes"})
    browser = open_page(run, prompt="é")
    assert "surprise per byte · " in browser.status
    browser.read("é€")
    assert [text for text, _ in browser.own_cells] == ["é", "·"]
    assert browser.get("get('own_status').textContent").endswith(
        "know them: “byte E2”, “byte 82”, “byte AC”."
    )
    browser.do("cellsOf(get('own_view'))[1].dispatch('click')")
    panel = browser.get("panelOf(get('own_predictions').childNodes[0])")
    assert panel["heading"].startswith("“byte A9”: ")


def test_a_hostile_text_is_shown_by_signs(folder: Path) -> None:
    run = make_run(folder, "hostile", HOSTILE * 40)
    browser = open_page(run, prompt="a")
    browser.read(HOSTILE)
    as_it_is = " \t"
    expected = [x if x in as_it_is else visible_line(sign(x)) for x in HOSTILE]
    assert [text for text, _ in browser.own_cells] == expected
    assert "\\u202e" in expected and "◌\u0301" in expected and "\\U0001ffff" in expected


def test_a_page_that_cannot_start_says_so(run: Run) -> None:
    html = playground_html(run, held_out=HeldOut(None))
    broken = html.replace('"layers":["lstm"', '"layers":["lstn"', 1)
    assert broken != html
    browser = Browser(broken)
    with pytest.raises(JSEvalException):
        browser.start()
    assert browser.get("get('failure').textContent").startswith("Something went wrong")


@pytest.fixture(scope="module")
def call() -> Callable[[str], Any]:
    """A function that evaluates code in the scope of the page's functions."""
    context = MiniRacer()
    context.eval(FAKE_DOM)
    context.eval(join_scripts([*ENGINE, *APP]).replace("\ntry {\n  main();", "\ntry {\n"))
    return lambda code: json.loads(context.eval(f"JSON.stringify({code})"))


def test_a_character_of_several_bytes_is_whole_in_slices_of_any_length(
    call: Callable[[str], Any],
) -> None:
    text = "Привет éé, 日本🐍 ab"
    strays = [0x82, 0x82, 0x82, 0x82, 0x82, 0xC3, 0x61]

    def shown(length: int) -> list[str]:
        view = (
            "const view = textView(root, openVocabulary([...Array(256).keys()], 'bytes'), () => {})"
        )
        return list(
            call(
                f"""((ids, root) => {{
                    {view};
                    while (ids.length) {{
                      view.add(ids.splice(0, {length}).map((id) => ({{ id, bits: null }})));
                    }}
                    return root.childNodes[0].childNodes.map((cell) => cell.textContent);
                }})({[*text.encode(), *strays, *"é".encode()]}, element("div"))"""
            )
        )

    whole = shown(100)
    assert [x for x in whole if x != "·"] == [*text, *"�" * 6, "a", "é"]
    assert len(whole) == len(text.encode()) + len(strays) + 2
    assert [shown(length) for length in (1, 2, 3, 4, 5)] == [whole] * 5


def test_signs_are_those_of_reports(call: Callable[[str], Any]) -> None:
    planes = [*range(0, 0x110000, 7), *range(0x3000), *range(0xFDD0, 0x10000), 0x1FFFF]
    points = [p for p in planes if is_compared(chr(p))]
    shown = call(f"{points}.map((point) => sign(String.fromCodePoint(point)))")
    wrong = {
        hex(point): text
        for point, text in zip(points, shown, strict=True)
        if text != visible_line(sign(chr(point)))
    }
    assert wrong == {}


def is_compared(symbol: str) -> bool:
    """Whether a symbol is a noncharacter, or in all versions of Unicode; no lone surrogate."""
    point, category = ord(symbol), unicodedata.category(symbol)
    is_noncharacter = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    return category != "Cs" and (category != "Cn" or is_noncharacter)


def test_texts_are_limited(call: Callable[[str], Any]) -> None:
    assert call("mostCharacters({ symbols: 95 })") == 20_000
    assert call("mostCharacters({ symbols: 4000 })") * 4000 * 4 <= 2**25
    lstm = "{ size: 512, units: ['cell', 'hidden'], heads: 0, places: 0 }"
    wide = "{ size: 4096, units: [], heads: 64, places: 2049 }"
    assert call(f"mostLooked({{ layers: [{lstm}] }})") == 2_000
    assert call(f"mostLooked({{ layers: [{lstm}, {wide}] }})") == 2**23 // (1024 + 64 * 2049)
    vocabulary = "openVocabulary([97, 98], 'characters')"
    found = call(f"readPrompt({{ vocabulary: {vocabulary}, most: 3 }}, 'aabb')")
    assert found == {"ids": [0, 1, 1], "words": " Only the last 3 characters are read."}
