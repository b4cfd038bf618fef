"""A talk with a model prints what `TrainedModel.sample` samples, however it is asked for."""

import itertools
from collections.abc import Callable, Iterator

import jax
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charlm_jax.cli.repl import Session
from charlm_jax.core.errors import CharlmError
from charlm_jax.data.vocabulary import Vocabulary
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.sampling.stop_strings import Chunk, apply_stop_strings
from tests.conftest import compiled_model, compiled_programs, make_tiny_config


@pytest.fixture(scope="module")
def run() -> TrainedModel:
    """A model whose weights nobody trained, large enough for texts to differ."""
    config, vocabulary = make_tiny_config(), Vocabulary("\n/abc")
    model = compiled_model(config.model, len(vocabulary))
    params = jax.tree.map(lambda w: 4.0 * w, model.init(jax.random.key(0)))
    return TrainedModel(config, vocabulary, model, params)


class Talk:
    """A session, and what it has printed."""

    def __init__(self, run: TrainedModel, *, chars: int = 500, **fields: object) -> None:
        self.out, self.notes = "", list[str]()
        self._session = Session(
            run,
            SamplingParams(**fields),
            characters=chars,
            write=self._write,
            note=self.notes.append,
        )

    def _write(self, text: str) -> None:
        self.out += text

    def say(self, *lines: str) -> str:
        """Obey some lines, and return what was printed meanwhile."""
        before = len(self.out)
        for line in lines:
            assert self._session.handle_line(line)
        return self.out[before:]

    def ends_at(self, line: str) -> bool:
        return not self._session.handle_line(line)


def _text(run: TrainedModel, prompt: str, index: int = 0, **told: object) -> str:
    told = {"characters": 30, "samples": index + 1} | told
    chunks = run.sample(prompt, **told)
    return prompt + "".join(row[index].text for row in chunks)


def test_a_prompt_and_what_follows_is_what_is_drawn_at_once(run: TrainedModel) -> None:
    talk = Talk(run, chars=30)
    assert talk.say("ab") == _text(run, "ab") + "\n"
    assert talk.say("/more") == _text(run, "ab", characters=60)[2 + 30 :] + "\n"
    assert talk.say("/again") == _text(run, "ab", 1) + "\n"
    assert talk.say("/chars 7", "/more") == _text(run, "ab", 1, characters=37)[2 + 30 :] + "\n"
    assert talk.say("/again") == _text(run, "ab", 2, characters=7) + "\n"
    assert talk.say("ab") == _text(run, "ab", characters=7) + "\n"
    assert talk.say("/seed 5", "/again") == _text(run, "ab", characters=7, seed=5) + "\n"
    assert talk.say("//b") == _text(run, "/b", characters=7, seed=5) + "\n"
    assert talk.say("") == ""
    assert talk.ends_at("/quit")


def test_a_prompt_is_read_like_a_stop_string_and_shown_as_it_was_read(run: TrainedModel) -> None:
    talk = Talk(run, chars=9)
    text = _text(run, "a\nb", characters=9) + "\n"
    assert talk.say(r"a\nb") == text and talk.notes == [r"prompt 'a\nb'"]
    assert talk.say(r"//\n") == _text(run, "/\n", characters=9) + "\n"
    assert talk.say("/again") == _text(run, "/\n", 1, characters=9) + "\n"
    assert talk.notes[1:] == [r"prompt '/\n'"] * 2
    talk.say("/more", "ab")
    assert len(talk.notes) == 3


@pytest.mark.parametrize(
    ("unknown", "read", "said"), [("drop", "ab", "left out"), ("replace", "acbc", "replaced")]
)
def test_unknown_characters_are_not_shown_and_are_told(
    run: TrainedModel, unknown: str, read: str, said: str
) -> None:
    talk = Talk(run, chars=9, unknown=unknown, replacement="c")
    assert talk.say("a漢b!") == _text(run, read, characters=9) + "\n"
    assert talk.notes == [f"2 unknown characters of the prompt were {said}"]
    assert talk.say("/more") == _text(run, read, characters=18)[len(read) + 9 :] + "\n"
    assert talk.say("ab") == _text(run, "ab", characters=9) + "\n" and len(talk.notes) == 1


def test_settings_act_from_the_next_text_on(run: TrainedModel) -> None:
    talk = Talk(run, chars=30)
    told: dict = {"top_k": 4, "top_p": 0.95, "min_p": 0.01}  # one program draws them all
    texts = [talk.say("/top_k 4", "/top_p 0.95", "/min_p 0.01", "ab")]
    for line, change in [
        ("/scale 0.5", {"scales": [0.5]}),
        ("/top_k  3 ", {"top_k": 3}),
        ("/top_p 0.7", {"top_p": 0.7}),
        ("/scale 0", {"scales": [0.0]}),
        ("/min_p 0.5", {"min_p": 0.5}),
        ("/scale inf", {"scales": [float("inf")]}),
    ]:
        told |= change
        texts.append(talk.say(line, "ab"))
        assert texts[-1] == _text(run, "ab", **told) + "\n"
    assert len(set(texts)) >= 3
    assert talk.notes[:5] == [
        "top_k 4",
        "top_p 0.95",
        "min_p 0.01",
        "scale 0.5 (temperature 2)",
        "top_k 3",
    ]


def test_a_stop_string_ends_a_text_and_more_goes_on_behind_it(run: TrainedModel) -> None:
    text = _text(run, "ab")
    stop = text[12:15].replace("\n", r"\n")
    talk = Talk(run, chars=30)
    place = 2 + text[2:].index(text[12:15])
    assert talk.say(f"/stop {stop}", "ab") == text[:place] + "\n"
    assert talk.say("/stop", "/chars 9", "/more") == (
        _text(run, "ab", characters=60)[place : place + 3 + 9] + "\n"
    )
    assert talk.notes == [f"stop {text[12:15]!r}", "stop none", "chars 9"]


def test_other_numbers_compile_nothing(run: TrainedModel) -> None:
    talk = Talk(run, chars=30)
    every_length = ("abc" * 171)[:511]  # a piece of every power of two
    talk.say(every_length, "/more", "/again")
    lines = ["/scale 2", "/top_k 2", "/top_p 0.5", "/min_p 0.1", "/seed 9", "/chars 45", "/top_k 0"]
    with compiled_programs() as programs:
        for line in lines:
            talk.say(line, "abcab", "/more", "/again")
    assert not programs
    with compiled_programs() as programs:  # which shows that one would be noticed
        jax.jit(lambda x: x + 1)(1.0)
    assert programs


MISTAKES = {
    "a@": ("the prompt has the character '@'", "vocabulary of 5 symbols"),
    "//@": "the prompt has the character '@'",
    "\x1b[A": "the prompt has the characters '\\x1b' (U+001B)",
    "/": "unknown command /, /help lists the commands",
    "/scal 2": "unknown command /scal, did you mean /scale?",
    "/Scale 2": "did you mean /scale?",
    "/temperature 2": "unknown command /temperature",
    "/ more": "unknown command /,",
    "/scale": "/scale needs a value",
    "/scale  ": "/scale needs a value",
    "/scale hot": "/scale hot is not a number",
    "/scale 1 2": "/scale 1 2 is not a number",
    "/scale -1": ("scale=-1", "[0, inf]"),
    "/scale nan": "scale=nan",
    "/top_k 1.5": "/top_k 1.5 is not an integer",
    "/top_k -1": "top_k=-1",
    "/top_p 1.5": ("top_p=1.5", "[0, 1]"),
    "/min_p inf": "min_p=inf",
    "/chars -1": "chars=-1",
    "/chars " + "9" * 30: "chars=" + "9" * 30,
    "/chars " + "9" * 5000: "is not an integer",
    "/seed 4294967296": "seed=4294967296",
    "/stop @": ("stop='@'", "it is never sampled"),
    "/stop a\\d": ("\\d", "a backslash must be followed by"),
    "a\\d": ("\\d", "a backslash must be followed by"),
    "//a\\d": ("\\d", "a backslash must be followed by"),
    "/more 3": "/more takes no value",
    "/quit now": "/quit takes no value",
    "/help me": "/help takes no value",
}


@pytest.mark.parametrize("line", MISTAKES, ids=lambda line: f"{line[:20]!r} {len(line)}")
def test_a_mistake_is_one_line_and_changes_nothing(run: TrainedModel, line: str) -> None:
    talk = Talk(run, chars=30)
    text = talk.say("ab")
    assert talk.say(line) == "" and len(talk.notes) == 1
    (note,) = talk.notes
    says = MISTAKES[line]
    assert all(part in note for part in ((says,) if isinstance(says, str) else says)), note
    assert len(note.splitlines()) == 1
    assert talk.say("/more") == _text(run, "ab", characters=60)[2 + 30 :] + "\n"
    assert talk.say("ab") == text


@pytest.mark.parametrize("line", ["/more", "/again"])
def test_without_a_text_there_is_nothing_to_go_on_from(run: TrainedModel, line: str) -> None:
    talk = Talk(run, chars=3)
    assert talk.say("a@", line) == "" and talk.notes[1].startswith("there is no text yet")


def test_help_names_every_command_and_how_the_settings_are(run: TrainedModel) -> None:
    talk = Talk(run, chars=3, top_k=7, stop=("ab", "\n"))
    talk.say("/help")
    commands = [line.split()[0] for line in talk.notes]
    names = "scale top_k top_p min_p chars seed stop more again help quit"
    assert commands == [*(f"/{name}" for name in names.split()), "//TEXT", "TEXT"]
    assert talk.notes[1].startswith("/top_k 7") and "'ab' or '\\n'" in talk.notes[6]


@pytest.mark.parametrize("wrong", [{"chars": -1}, {"seed": -1}, {"scale": -1}, {"stop": ("@",)}])
def test_wrong_settings_are_refused_at_the_beginning(run: TrainedModel, wrong: dict) -> None:
    with pytest.raises(CharlmError):
        Talk(run, **wrong)


class Pattern:
    """In place of a run: of every sample the character at each place is known."""

    vocabulary = Vocabulary("abcx")

    def __init__(self, piece: int = 3, until: Callable[[int], bool] = lambda place: False) -> None:
        self._piece, self._until = piece, until

    @staticmethod
    def character(sample: int, place: int) -> str:
        return "abc"[(place * place + sample + place // 5) % 3]

    def continue_text(
        self,
        text: str,
        sampling: SamplingParams,
        *,
        characters: int,
        sample: int,
        sampled: int,
    ) -> Iterator[Chunk]:
        tail = text[len(text) - sampled :]
        assert tail == "".join(self.character(sample, n) for n in range(sampled))
        pieces = ([piece] for piece in self._pieces(sample, sampled, characters))
        return (chunk for (chunk,) in apply_stop_strings(pieces, sampling.stop, texts=1))

    def _pieces(self, sample: int, start: int, characters: int) -> Iterator[str]:
        piece = ""
        for place in range(start, start + characters):
            if self._until(place):
                raise KeyboardInterrupt
            piece += self.character(sample, place)
            if len(piece) == self._piece:
                yield piece
                piece = ""
        yield piece


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=2),
    st.integers(1, 5),
)
@example([12, 12], ["abc", "c"], 2)
def test_parts_and_the_stop_strings_between_them_are_the_text(
    counts: list[int], stops: list[str], piece: int
) -> None:
    talk = Talk(Pattern(piece), stop=tuple(stops))
    parts = []
    for number, count in enumerate(counts):
        part = talk.say(f"/chars {count}", "/more" if number else "x")
        assert part.endswith("\n")
        parts.append(part[:-1])
    text = "".join(parts)
    assert text == "x" + "".join(Pattern.character(0, place) for place in range(len(text) - 1))
    if not stops:
        assert [len(part) for part in parts] == [counts[0] + 1, *counts[1:]]


@pytest.mark.parametrize("stops", [(), ("abcabcabc",)])
def test_ctrl_c_ends_the_text_and_not_the_talk(stops: tuple[str, ...]) -> None:
    interrupted = itertools.count()
    talk = Talk(Pattern(3, lambda place: place == 10 and not next(interrupted)), stop=stops)
    part = talk.say("x")
    assert part.endswith("\n") and talk.notes == ["interrupted"]
    rest = talk.say("/chars 9", "/more")
    text = part[:-1] + rest[:-1]
    assert text == "x" + "".join(Pattern.character(0, place) for place in range(len(text) - 1))
    assert 10 <= len(text) == len(part) - 1 + 9
