"""A model of bytes: what it reads and samples is exact, and its figures are per byte."""

import bz2
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from charlm_jax.cli import main
from charlm_jax.comparison.compare import compare, comparison_to_json
from charlm_jax.core.errors import CharlmError
from charlm_jax.evaluation import Sliding, Stream, Window
from charlm_jax.inference.export import write_export
from charlm_jax.inference.run import Run, load_run
from charlm_jax.report.plots import plot_loss
from charlm_jax.report.runs_page import write_report
from charlm_jax.training.loop import train_and_evaluate
from tests.conftest import make_tiny_config

DATA = ("naïve café\r\n日本 " * 40).encode() + bytes(range(200, 256)) * 4
STEPS = {"train.max_steps": 30, "optimizer.learning_rate": 0.03}


def _train(workdir: Path, data: bytes, **changes: object) -> Run:
    file = workdir.with_suffix(".txt")
    file.write_bytes(data)
    config = make_tiny_config(**{"data.corpus": str(file), **STEPS, **changes})
    train_and_evaluate(config, workdir)
    return load_run(workdir)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    workdir = tmp_path_factory.mktemp("runs") / "bytes"
    return _train(workdir, DATA, **{"data.unit": "bytes"})


def _exact(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _sample(run: Run, characters: int, **changes: object) -> bytes:
    chunks = run.sample("café ", characters=characters, seed=3, **changes)
    return b"".join(_exact(chunk.text) for (chunk,) in chunks)


@pytest.mark.core
def test_samples_are_bytes(run: Run) -> None:
    whole = _sample(run, 80)
    assert len(whole) == 80 and set(whole) <= set(DATA)
    assert _sample(run, 30) == whole[:30]
    with pytest.raises(UnicodeDecodeError):
        whole.decode()
    shown = run.generate("café ", characters=80, seed=3)
    shown.encode()
    text = whole.decode("utf-8", "surrogateescape")
    assert len(shown) == len(text) and "\ufffd" in shown
    assert all(a == b or b > "\ud800" for a, b in zip(shown, text, strict=True))


def test_a_text_is_continued_from_its_bytes(run: Run) -> None:
    text, whole = "café ", _sample(run, 60)
    for characters, sampled in ((7, 0), (13, 7), (40, 20)):
        chunks = run.continue_text(text, characters=characters, seed=3, sampled=sampled)
        text += "".join(chunk.text for chunk in chunks)
    assert _exact(text) == "café ".encode() + whole


def test_stop_strings_are_text(run: Run) -> None:
    whole = _sample(run, 400, stop=())
    stop = next(symbol for symbol in "ïé\n " if symbol.encode() in whole[1:])
    rows = list(run.sample("café ", characters=400, seed=3, stop=[stop]))
    assert rows[-1][0].stopped_by == stop
    assert b"".join(_exact(chunk.text) for (chunk,) in rows) == whole.split(stop.encode())[0]


def test_every_byte_of_a_text_is_scored(run: Run) -> None:
    data = "café\r\n日".encode() + b"\xff\xc8"
    text = data.decode("utf-8", "surrogateescape")
    score = run.score(text)
    assert score.positions_N.tolist() == list(range(1, len(data)))
    assert run.score(text.replace("\r", "!"), unknown="drop").characters == len(data) - 2
    with pytest.raises(CharlmError, match=r"the text has the byte 0x21 \('!'\) outside"):
        run.score("caf!")
    top = run.top_predictions(text)
    assert len(top.symbols) == score.characters
    assert run.inspect("é日").symbols == "é日".encode().decode("latin-1")


def test_lines_of_bytes_are_scored_one_by_one(run: Run) -> None:
    lines = [b"caf\xc3\xa9", b"\xc8\r", "日本".encode()]
    text = b"\n".join(lines).decode("utf-8", "surrogateescape")
    score = run.score(text, separate_lines=True)
    alone = [
        run.score(line.decode("utf-8", "surrogateescape"), separate_lines=True).nll_N
        for line in lines
    ]
    np.testing.assert_allclose(score.nll_N, np.concatenate(alone), rtol=1e-5)
    symbols = run.vocabulary.to_symbols(text)
    assert all(0 <= place <= len(symbols) for place in score.positions_N)


@pytest.mark.parametrize("protocol", [Window(8), Stream(), Sliding(8, 50)])
def test_bits_per_byte_are_those_of_the_symbols(run: Run, protocol: object) -> None:
    evaluation, nll_N = run.evaluate(protocol)
    assert evaluation.bits_per_byte == evaluation.bits_per_char
    assert evaluation.bits_per_byte == pytest.approx(nll_N.mean() / np.log(2))
    if not isinstance(protocol, Sliding):
        assert evaluation.characters == len(DATA) - int(len(DATA) * 9 / 10)


@pytest.mark.parametrize("protocol", [Window(8), Stream(), Sliding(8, 50)])
def test_bits_per_byte_of_characters_are_over_their_utf8(
    tmp_path: Path, protocol: Window | Stream | Sliding, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _train(tmp_path / "characters", ("naïve café 日本🐍 " * 40).encode())
    evaluation, nll_N = run.evaluate(protocol, cache=True)
    text, part = run.dataset().corpus.text, run.dataset().part("valid")
    scored = "".join(text[i] for i in protocol.positions(part))
    assert len(nll_N) == len(scored) < len(scored.encode())
    bits = nll_N.astype(np.float64).sum() / np.log(2)
    assert evaluation.bits_per_byte == pytest.approx(bits / len(scored.encode()))
    again, _ = run.evaluate(protocol, cache=True)
    assert again == evaluation
    (note,) = (tmp_path / "characters" / "evaluation").glob("*.json")
    values = json.loads(note.read_text())
    assert values["bits_per_byte"] == evaluation.bits_per_byte
    del values["bits_per_byte"]  # as earlier versions wrote it
    values["format"] = 3
    note.write_text(json.dumps(values))
    scorer = "charlm_jax.inference.trained_model._shared_scorer"
    monkeypatch.setattr(scorer, lambda *_, **__: pytest.fail("scored again"))
    assert run.evaluate(protocol, cache=True)[0] == evaluation


def test_an_export_is_of_bytes_too(run: Run, tmp_path: Path) -> None:
    write_export(run, tmp_path / "export")
    exported = load_run(tmp_path / "export")
    assert exported.vocabulary == run.vocabulary and exported.vocabulary.unit == "bytes"
    assert _sample(exported, 20) == _sample(run, 20)


def test_weights_do_not_pass_between_units(run: Run, tmp_path: Path) -> None:
    with pytest.raises(CharlmError, match=r"data\.unit is 'bytes' there, 'characters' here"):
        _train(tmp_path / "other", b"abc" * 400, **{"train.init_from": str(run.workdir)})
    same = {"train.init_from": str(run.workdir), "data.unit": "bytes"}
    assert _train(tmp_path / "same", DATA[:-9], **same).checkpoint


def test_compressors_and_pages_read_bytes(run: Run, tmp_path: Path) -> None:
    found = compare([run])
    assert "Losses are per byte." in found.describe()
    assert "characters" not in found.describe() and comparison_to_json(found)["unit"] == "bytes"
    assert "characters" not in compare([run], Sliding(4, 9)).describe()
    for shown in (found.groups[0].evaluations[0], run.score("café")):
        assert "character" not in shown._repr_html_()
    bz2_bits = next(x.bits_per_char for x in found.baselines if x.name == "bz2")
    held_out = found.groups[0].evaluations[0].characters
    added = len(bz2.compress(DATA)) - len(bz2.compress(DATA[:-held_out]))
    assert bz2_bits == 8 * added / held_out > 0
    page = write_report([run], tmp_path / "page.html").read_text()
    assert f"{len(DATA):,} bytes" in page and "Models read bytes here" in page
    assert "A byte is of the class of the character" in page and "byte outside UTF-8" in page
    for words in ("Loss per byte", "nats per byte", "preceding bytes", "of 1,000 bytes"):
        assert words in page and words.replace("byte", "character") not in page
    assert f"{held_out:,} bytes" in page and f"{held_out:,} characters" not in page
    (axes,) = plot_loss(run).axes
    assert axes.get_ylabel() == "loss, nats per byte"
    assert "nats per byte" in run._repr_html_()


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(arguments) == 0
    value = json.loads(capsys.readouterr().out)
    assert isinstance(value, dict)
    return value


def test_commands_take_and_give_bytes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = f"--workdir={run.workdir}"
    file = tmp_path / "prompt"
    file.write_bytes("café ".encode())
    flags = ("--chars=80", "--seed=3", "--json")
    sampled = _json(capsys, "sample", workdir, f"--prompt_file={file}", *flags)
    assert bytes.fromhex(str(sampled["bytes"])) == _sample(run, 80)
    assert sampled["text"] == run.generate("café ", characters=80, seed=3)
    assert _json(capsys, "sample", workdir, "--prompt=café ", *flags) == sampled
    file.write_bytes(b"caf\xff\r\n\xe6")
    _json(capsys, "sample", workdir, f"--prompt_file={file}", *flags)
    scored = _json(capsys, "score", workdir, str(file), "--json")
    assert scored["unit"] == "bytes" and scored["characters"] == 6
    lines = scored["lines"]
    assert isinstance(lines, list)
    assert [line["text"] for line in lines] == ["caf\ufffd\r", "\ufffd"]
    evaluated = _json(capsys, "evaluate", workdir, "--json")
    assert evaluated["unit"] == "bytes"
    assert evaluated["bits_per_byte"] == evaluated["bits_per_char"]
    assert main(["evaluate", workdir]) == 0
    held_out = len(DATA) - int(len(DATA) * 9 / 10)
    assert f" bits per byte over {held_out} bytes (" in capsys.readouterr().out
    listed = _json(capsys, "corpora", str(file), "--unit=bytes", "--json")
    assert listed["bytes"] == 7


def test_texts_of_two_units_are_not_compared(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _train(tmp_path / "characters", b"abc\n" * 300)
    file = tmp_path / "text"
    file.write_bytes(b"abc")
    command = ["score", f"--workdir={run.workdir}", str(file)]
    assert main([*command, f"--beside={other.workdir}"]) == 2
    assert "one reads characters, the other bytes" in capsys.readouterr().err
    assert main([*command, "--encoding=latin-1"]) == 2
    assert "reads bytes as they are" in capsys.readouterr().err
    with pytest.raises(CharlmError, match=r"data\.unit is 'characters' and 'bytes'; losses"):
        compare([run, other])


def test_a_vocabulary_that_cannot_be_of_bytes_is_refused(tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.workdir, copy)
    words = json.loads((copy / "vocabulary.json").read_text())
    words["symbols"] = words["symbols"][:-1] + "Ā"
    (copy / "vocabulary.json").write_text(json.dumps(words))
    with pytest.raises(CharlmError, match=r"U\+0000 to U\+00FF"):
        load_run(copy)


def test_a_session_continues_from_bytes(run: Run) -> None:
    from charlm_jax.cli.repl import Session
    from charlm_jax.sampling.params import SamplingParams

    written: list[str] = []
    session = Session(
        run, SamplingParams(seed=3), characters=17, write=written.append, note=pytest.fail
    )
    for line in ("café ", "/more", "/more"):
        assert session.handle_line(line)
    whole = run.vocabulary.to_text(_sample(run, 51).decode("latin-1"))
    ends = list(itertools.pairwise([0, 17, 34, 51]))
    symbols = run.vocabulary.to_symbols(whole)
    shown = [run.vocabulary.shown(run.vocabulary.to_text(symbols[a:b])) for a, b in ends]
    assert "".join(written) == "café " + "".join(f"{text}\n" for text in shown)
