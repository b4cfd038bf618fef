"""`charlm score`: what it prints and draws of a text. `test_errors.py` has its mistakes."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.comparison.readings import Reading, read_characters
from charlm_jax.comparison.units import reading_units
from charlm_jax.core.trees import count_parameters
from charlm_jax.evaluation import Window
from charlm_jax.evaluation.text_score import score_lines
from charlm_jax.inference.run import Run
from charlm_jax.report.html.rendering import format_percent
from tests.evaluation.test_text_score import CONTEXT, SYMBOLS, TEXT, random_run
from tests.report.test_runs_page import Page, heat_maps, read


@pytest.fixture(scope="module")
def lstm() -> Run:
    return random_run("lstm", SYMBOLS, 0)


@pytest.fixture(scope="module")
def other() -> Run:
    """Of another alphabet: it knows no `<`, `>`, `&` or `"`, but `!`."""
    return random_run("other", "\n !/abcdehlortuw☃", 1, **{"model.hidden_size": 4})


@pytest.fixture(scope="module")
def learned() -> Run:
    """Reads no more than 12 characters from its initial state on."""
    changes = {"layers": ("attention",), "position": "learned", "max_length": 12}
    return random_run("learned", SYMBOLS, 2, **{f"model.{k}": v for k, v in changes.items()})


Command = Callable[..., str]


@pytest.fixture
def charlm(
    lstm: Run,
    other: Run,
    learned: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run `charlm score` with these runs; what it prints, on standard error where it fails."""
    runs = {run.workdir.name: run for run in (lstm, other, learned)}
    monkeypatch.setattr("charlm_jax.inference.run.load_run", lambda name, **_: runs[str(name)])

    def run(*arguments: str) -> str:
        status = main(["score", *arguments])
        printed = capsys.readouterr()
        assert (status == 0) == (printed.err == "") and status in (0, 2)
        return printed.out if status == 0 else printed.err

    return run


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


NAMES = "workdir checkpoint weights file mode context separate_lines unknown unknown_characters"
NAMES += " unit"
NAMES += " characters loss_nats bits_per_char nats bits lines page"


def test_json_has_the_whole_and_every_line(charlm: Command, file: str, lstm: Run) -> None:
    row = json.loads(charlm("--workdir=lstm", file, "--json"))
    score = lstm.score(TEXT)
    assert list(row) == NAMES.split() and row["page"] is None
    assert (row["workdir"], row["checkpoint"], row["weights"]) == ("runs/lstm", 7, "raw")
    assert (row["mode"], row["context"], row["unknown_characters"]) == ("stream", None, 0)
    assert row["characters"] == len(TEXT) - 1
    assert row["loss_nats"] == score.loss_nats and row["bits_per_char"] == score.bits_per_char
    assert row["nats"] == pytest.approx(score.loss_nats * score.characters)
    assert row["bits"] == pytest.approx(score.bits_per_char * score.characters)
    lines = row["lines"]
    assert [line["text"] for line in lines] == TEXT.removesuffix("\n").split("\n")
    assert [line["line"] for line in lines] == [*range(1, len(lines) + 1)]
    assert [line["characters"] for line in lines] == [9, 1, 14, 7, 9]  # the first is not predicted
    assert math.fsum(line["nats"] for line in lines) == pytest.approx(row["nats"])
    for line in lines:
        bits = line["nats"] / math.log(2) / line["characters"]
        assert line["bits_per_char"] == pytest.approx(bits)
    running = ("--sort=surprise", "--lines=running")
    ranked = json.loads(charlm("--workdir=lstm", file, "--json", *running))["lines"]
    assert ranked == sorted(lines, key=lambda line: -line["bits_per_char"]) != lines


def test_lines_are_printed(charlm: Command, file: str, lstm: Run) -> None:
    head, *rows, last = charlm("--workdir=lstm", file).splitlines()
    score = lstm.score(TEXT)
    assert head.split() == ["line", "scored", "bits", "text"]
    for row, line in zip(rows, score_lines(TEXT, score), strict=True):
        words = [str(line.number), str(line.characters), f"{line.bits_per_char:.4f}"]
        assert row.split(maxsplit=3) == [*words, *([line.text.strip()] if line.text else [])]
    figures = f"{score.loss_nats:.4f} nats, {score.bits_per_char:.4f} bits per character"
    assert last == f"lstm: {figures} over 40 characters (stream, checkpoint 7)"
    ranked = charlm("--workdir=lstm", file, "--sort=surprise", "--lines=running").splitlines()
    assert sorted(ranked[1:-1]) == sorted(rows) and ranked[1:-1] != rows
    values = [float(row.split()[2]) for row in ranked[1:-1]]
    assert values == sorted(values, reverse=True)


@pytest.mark.core
def test_a_ranking_of_lines_does_not_depend_on_their_order(
    charlm: Command, tmp_path: Path, lstm: Run
) -> None:
    names = ["cold", "old", "water", "tea", "the", "hello", "car", "toe", "cold"]  # two alike
    rankings = []
    for order in (names, names[::-1]):
        file = tmp_path / "names.txt"
        file.write_text("\n".join(order), encoding="utf-8")  # the last without its newline
        row = json.loads(charlm("--workdir=lstm", str(file), "--json", "--sort=surprise"))
        assert row["separate_lines"] and row["characters"] == sum(len(x) + 1 for x in names)
        rankings.append([(line["text"], line["nats"]) for line in row["lines"]])
        alike = [line["line"] for line in row["lines"] if line["text"] == "cold"]
        assert alike == [1, len(names)]  # equal figures as in the text
        for line in row["lines"]:
            assert line["nats"] == pytest.approx(lstm.score(f"\n{line['text']}\n").nats, rel=1e-5)
        running = ("--json", "--sort=surprise", "--lines=running")
        row = json.loads(charlm("--workdir=lstm", str(file), *running))
        rankings.append([(line["text"], line["nats"]) for line in row["lines"]])
        printed = charlm("--workdir=lstm", str(file), "--sort=surprise").splitlines()[-1]
        assert printed.endswith("(stream, each line on its own, checkpoint 7)")
        assert "own" not in charlm("--workdir=lstm", str(file))
    assert rankings[0] == rankings[2] and rankings[1] != rankings[3]


@pytest.mark.parametrize("lines", ["running", "separate"])
def test_the_page_says_how_its_lines_were_read(
    charlm: Command, file: str, lines: str, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    Path(file).write_text(TEXT.removesuffix("\n"), encoding="utf-8")
    charlm("--workdir=lstm", file, f"--html={path}", f"--lines={lines}", "--sort=surprise")
    text = read(path).text()
    assert ("Each line was read after the lines before it" in text) == (lines == "running")
    assert ("Every line is read on its own, from an empty state" in text) == (lines == "separate")
    whole = {"running": "the text", "separate": "its line"}[lines]
    assert f"predicted from all preceding characters of {whole}." in text
    rule = {"running": "stream", "separate": "stream, each line on its own"}[lines]
    assert f" characters ({rule}) of text.txt" in text
    assert len(_cells(read(path))[0]) == len(TEXT) - 1


@pytest.mark.parametrize(
    ("data", "characters"),
    [
        (b"hello\nwe", [5, 2]),  # no last newline
        (b"hello\r\n\r\nwe\r\n", [5, 1, 3]),
        (b"\xef\xbb\xbfhello\rwe", [5, 2]),  # a byte-order mark, and a Mac's newline
        (b"\nhe", [0, 2]),  # nothing predicts the first newline
        (b"\n\n", [0, 1]),
        ("h☃".encode(), [1]),
    ],
)
def test_standard_input(
    charlm: Command, data: bytes, characters: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    row = json.loads(charlm("--workdir=lstm", "-", "--json"))
    assert row["file"] == "-" and [line["characters"] for line in row["lines"]] == characters
    empty = [line for line in row["lines"] if not line["characters"]]
    assert all(line["bits_per_char"] is None and line["nats"] is None for line in empty)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert all("-" in row for row in charlm("--workdir=lstm", "-").splitlines()[1 : len(empty) + 1])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "standard input is empty"),
        (b"\xef\xbb\xbf", "standard input is empty"),
        (b"h", "too short to score (1 known characters): it needs two"),
        (b"hell\xff", "standard input is not utf-8: byte 0xff at offset 4"),
        (b"hello@", "outside the model's vocabulary of 20 symbols"),
    ],
)
def test_standard_input_that_cannot_be_scored(
    charlm: Command, data: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    message = charlm("--workdir=lstm", "-")
    assert says in message and message.count("\n") == 1
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in charlm("--workdir=lstm", "-")


def test_a_model_with_learned_positions_reads_in_windows(
    charlm: Command, file: str, learned: Run
) -> None:
    row = json.loads(charlm("--workdir=learned", file, "--json"))
    assert (row["mode"], row["context"]) == ("window", CONTEXT)
    assert row["nats"] == pytest.approx(learned.score(TEXT, Window(CONTEXT)).nats)
    row = json.loads(charlm("--workdir=learned", file, "--json", "--mode=sliding", "--context=5"))
    assert (row["mode"], row["context"]) == ("sliding", 5)
    assert row["characters"] == len(TEXT) - 5
    assert "(window of 8, checkpoint 7)" in charlm("--workdir=learned", file)
    assert "the model has 12" in charlm("--workdir=learned", file, "--mode=stream")


def _cells(page: Page) -> list[list[tuple[str, str]]]:
    """(class, tip) of every cell of every map, those without a figure among them."""
    maps: list[list[tuple[str, str]]] = []
    for node in page.nodes:
        if node.attributes.get("class") == "heat":
            maps.append([])
        elif node.tag == "label" and maps:
            maps[-1].append((str(node.attributes["class"]), node.attributes.get("data-t") or ""))
    return maps


def test_the_page_has_a_cell_for_every_character(
    charlm: Command, file: str, lstm: Run, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    printed = charlm("--workdir=lstm", file, f"--html={path}")
    assert printed.endswith(f"\n{path}\n")
    data, page = path.read_text(encoding="utf-8"), read(path)
    assert "http" not in data and "<script" not in data
    score, guesses = lstm.score(TEXT), lstm.top_predictions(TEXT)
    (cells,) = _cells(page)
    assert len(cells) == len(TEXT)
    assert cells[0] == ("none", "not scored: too little context")
    shown_N = [value for _, value in heat_maps(page)[0]]
    np.testing.assert_allclose(shown_N, score.nll_N / math.log(2), atol=6e-3)
    for (_, tip), symbols, row in zip(
        cells[1:], guesses.symbols, guesses.probability_NG, strict=True
    ):
        shown = [{" ": "␣", "\n": "↵"}.get(symbol, symbol) for symbol in symbols]
        for line, symbol, share in zip(tip.split("\n")[1:], shown, row.tolist(), strict=True):
            assert [word.strip() for word in line.split("\t")[1:]] == [
                symbol,
                format_percent(share),
            ]
    text = page.text()
    model = f"lstm (1 LSTM layer; {count_parameters(lstm.params):,} parameters; trained on "
    assert model in text and "On text held out in training" not in text  # it recorded nothing
    figure = f"needs {score.bits_per_char:.2f} bits per character for 40 characters (stream) of"
    assert f"{figure} text.txt." in text and score.characters == 40
    assert f"{score.bits_per_char:.4f} bits" in text and "read: stream" in text
    assert TEXT in [words for _, words in page.words]  # as it is, escaped
    assert "&lt;b&gt;" in data and "&#34;tea&#34;" in data and "water &amp;" in data
    rows = [node for node in page.all("tr") if "tbody" in node.path]
    assert len(rows) == 20 + 5  # characters, and lines
    assert json.loads(charlm("--workdir=lstm", file, f"--html={path}", "--json"))["page"] == str(
        path
    )
    assert path.read_text(encoding="utf-8") == data  # ours is replaced, by the same


def test_two_models_of_unlike_alphabets_read_the_same_text(
    charlm: Command, file: str, lstm: Run, other: Run, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    both = ("--workdir=lstm", "--beside=other", file)
    assert charlm(*both).startswith("charlm score: runs/other: the text has the characters '\"'")
    told = json.loads(charlm(*both, "--json", "--unknown=drop", f"--html={path}"))
    second = told["beside"]
    assert told["unknown_characters"] == 0 and second["unknown_characters"] == 7
    scores = [run.score(TEXT, unknown="drop") for run in (lstm, other)]
    assert [told["nats"], second["nats"]] == [score.nats for score in scores]
    assert [line["text"] for line in told["lines"]] == [line["text"] for line in second["lines"]]
    page = read(path)
    cells = _cells(page)
    assert [len(x) for x in cells] == [len(TEXT)] * 3
    for place, symbol in enumerate(TEXT):
        looks = [x[place][0] for x in cells]
        if symbol in '<>&"':
            assert looks[0][0] == "h" and looks[1:] == ["none", "none"]
            assert cells[1][place][1] == "unknown to the model: left out"
        else:
            assert place == 0 or [look[0] for look in looks] == ["h", "h", "d"]
    less_N = scores[1].along(len(TEXT)) - scores[0].along(len(TEXT))
    assert told["shared_characters"] == np.isfinite(less_N).sum() == len(TEXT) - 8
    assert told["difference_nats"] == pytest.approx(np.nanmean(less_N), rel=1e-5)
    drawn = [value for _, value in heat_maps(page)[2]]
    np.testing.assert_allclose(drawn, less_N[~np.isnan(less_N)] / math.log(2), atol=6e-3)
    assert "7 unknown characters left out" in page.text()
    figures = [f"{run.bits_per_char:.2f}" for run in scores]
    scored = [rf"for {run.characters} characters \(stream\)" for run in scores]
    assert re.search(
        rf"lstm .* needs {figures[0]} .* {scored[0]} of text.txt, other .* {figures[1]} {scored[1]}"
        r"\. Lower",
        page.text(),
    )
    difference = (
        f"other minus lstm: {np.nanmean(less_N):+.4f} nats per character over 33 characters"
    )
    assert difference in page.text()
    assert difference in charlm(*both, "--unknown=drop").splitlines()[-1]
    head, *rows, first, last, _ = charlm(*both, "--unknown=replace").splitlines()
    assert head.split() == ["line", "scored", "bits", "beside", "text"]
    replaced = other.score(TEXT, unknown="replace")
    lines = [score_lines(TEXT, x) for x in (scores[0], replaced)]
    for row, line, beside in zip(rows, *lines, strict=True):
        figures = [f"{line.bits_per_char:.4f}", f"{beside.bits_per_char:.4f}"]
        assert row.split()[2:4] == figures
    assert first.startswith("lstm: ") and "7 unknown characters replaced" in last


def test_two_models_with_no_character_in_common(charlm: Command, tmp_path: Path) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "page.html"
    text.write_text('!!"&!"&!')  # `lstm` knows `"&`, and `other` knows `!`
    both = ("--workdir=lstm", "--beside=other", str(text), "--unknown=drop")
    told = json.loads(charlm(*both, "--json", f"--html={path}"))
    assert (told["shared_characters"], told["difference_nats"]) == (0, None)
    words = "lstm and other have no scored character in common"
    assert charlm(*both).endswith(f"{words}\n") and words in read(path).text()
    assert [len(cells) for cells in _cells(read(path))] == [8, 8]


def test_what_is_replaced_says_so(charlm: Command, tmp_path: Path) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "page.html"
    text.write_text("hello@water@", encoding="utf-8")
    for how, look, words in (("replace", "h", "read as ␣"), ("drop", "n", "left out")):
        charlm("--workdir=lstm", str(text), f"--html={path}", f"--unknown={how}")
        page = read(path)
        (cells,) = _cells(page)
        for looks, title in (cells[5], cells[11]):
            assert looks[0] == look and f"unknown to the model: {words}" in title
            assert (" %" in title) == (how == "replace")
        assert ("@, read as ␣" in page.text()) == (how == "replace")


def test_what_is_not_scored_is_not_among_the_most_surprising(lstm: Run) -> None:
    text, how = "hello@", {"unknown": "drop", "replacement": " ", "separate_lines": True}
    reading = Reading("lstm", lstm, lstm.score(text, **how), how)
    assert [*read_characters(reading, text).predictions] == [0, 1, 2, 3, 4]


def test_newlines_that_separate_lines_are_not_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file, path = random_run("flat", " ehlo", 3), tmp_path / "text.txt", tmp_path / "page.html"
    monkeypatch.setattr("charlm_jax.inference.run.load_run", lambda *_, **__: run)
    file.write_text("hello\nhole", encoding="utf-8")
    asked = ["score", "--workdir=flat", str(file), "--lines=separate"]
    assert main([*asked, f"--html={path}"]) == 0
    assert "unknown" not in capsys.readouterr().out + read(path).text()
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unknown_characters"] == 0


def test_the_page_of_a_long_text_shows_its_beginning(
    charlm: Command, file: str, lstm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    for limit in (1, 7):
        monkeypatch.setattr("charlm_jax.report.text_page.COLOURED_CHARACTERS", limit)
        charlm("--workdir=lstm", file, f"--html={path}")
        page = read(path)
        assert [len(cells) for cells in _cells(page)] == [limit]
        assert f"Only the first {limit} of 41 characters are coloured" in page.text()
        assert f"{lstm.score(TEXT).bits_per_char:.4f} bits" in page.text()  # of the whole
    monkeypatch.undo()


def test_a_file_that_is_not_ours_is_kept(charlm: Command, file: str) -> None:
    message = charlm("--workdir=lstm", file, f"--html={file}")
    assert "was not written by charlm" in message and message.count("\n") == 1
    assert Path(file).read_text() == TEXT


def test_a_hostile_text_cannot_act_upon_terminal_or_page(charlm: Command, tmp_path: Path) -> None:
    text, path = tmp_path / "<b>&.txt", tmp_path / "page.html"
    text.write_text("he\x1b[31m</title>\u202e<script>old</script>\u0301\n", encoding="utf-8")
    printed = charlm("--workdir=lstm", str(text), f"--html={path}", "--unknown=drop")
    assert "\x1b" not in printed and r"\x1b[31m" in printed
    page = read(path)  # refuses scripts, and tags that are not closed
    assert not {"\x1b", "\u202e"} & set(path.read_text(encoding="utf-8"))
    assert page.text("title") == "<b>&.txt, scored by lstm"
    assert [len(cells) for cells in _cells(page)] == [len(text.read_text(encoding="utf-8"))]


def test_a_longer_text_is_coloured_by_units_picked_on_its_first_half(
    charlm: Command, tmp_path: Path, lstm: Run
) -> None:
    text, path = tmp_path / "text.txt", tmp_path / "page.html"
    for times, is_long in ((20, False), (60, True)):
        text.write_text(TEXT * times + "@", encoding="utf-8")  # a character that it does not know
        charlm("--workdir=lstm", str(text), f"--html={path}", "--unknown=drop")
        page = read(path).text()
        assert ("Text coloured by one unit" in page) == is_long
    assert f"Each of the {lstm.config.model.hidden_size} recurrent units of lstm" in page
    assert "on 1,000 characters of the first half of the text" in page
    assert "it is scored on 1,000 characters of the second half" in page
    how = {"unknown": "drop", "replacement": " "}
    read_text = TEXT * 60
    reading = Reading("lstm", lstm, lstm.score(read_text), how)
    found = reading_units(reading, read_text, most=10_000)
    assert found is not None
    assert all(pick.shown.start >= len(read_text) // 2 for pick in found.ranking.picks)
    found = reading_units(reading, read_text, most=2_000)
    assert found is not None and found.picked_on == "the first half of its first 2,000 characters"
