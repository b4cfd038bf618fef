r"""A talk with a model: prompts, and commands that change how it goes on from them.

A line is a prompt, or, where it begins with a slash, a command. A prompt is sample 0 of its seed,
so that its text is the one that `TrainedModel.draw` draws with the same numbers; `/again` is the
next sample, and `/more` goes on as a longer text would have done, under the settings as they are
then.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from charlm_jax.core.errors import MAX_CHARACTERS, CharlmError, closest, require_within
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.sampling.categorical import temperature
from charlm_jax.sampling.policies import Policy, build_policy
from charlm_jax.sampling.stop_strings import apply_stop_strings, check_stops, parse_stop


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a command can change.

    Attributes:
      scale: the scale factor of the logits, 1 / temperature.
      top_k: as in `TrainedModel.draw`, as are the next two.
      top_p: see there.
      min_p: see there.
      chars: characters to draw.
      seed: root of the noise.
      stop: strings that end a text.

    Raises:
      CharlmError: a number that is not allowed.
    """

    scale: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    chars: int = 500
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_within("chars", self.chars, 0, MAX_CHARACTERS)
        require_within("seed", self.seed, 0, 2**32 - 1)
        _ = self.policy  # which refuses a wrong number

    @property
    def policy(self) -> Policy:
        """Of one row, and with every truncation: other numbers compile nothing new."""
        return build_policy(
            scale=[self.scale],
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            keep_idle=True,
        )

    def describe(self, name: str) -> str:
        """One of them by name and value."""
        value = getattr(self, name)
        if name == "scale":
            return f"scale {value:g} (temperature {temperature(value):g})"
        if name == "stop":
            return "stop " + (" or ".join(map(repr, value)) or "nowhere")
        return f"{name} {value}"


class _Text(NamedTuple):
    """What was printed last: where `/more` goes on, and what `/again` repeats."""

    prompt: str
    drawn: str
    sample: int
    stopped_by: str | None = None


_NUMBERS: Mapping[str, Callable[[str], Any]] = {
    "scale": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "chars": int,
    "seed": int,
}

_HELP = {
    "/more": "go on from where the text ended, behind what stopped it",
    "/again": "the same prompt with other noise",
    "/help": "this list",
    "/quit": "end; so does the end of the input",
    "//TEXT": "the prompt /TEXT",
}

_MEANINGS = {
    "scale": "scale factor of the logits, 1 / temperature",
    "top_k": "of the K likeliest characters; 0 is all",
    "top_p": "of these, the fewest whose probability reaches P; 1 is all",
    "min_p": "of these, those at least P times as likely as the best; 0 is all",
    "chars": "characters to draw",
    "seed": "root of the noise",
    "stop": r"end before this text, in which \n is a newline; /stop alone is nowhere",
}


class Session:
    """A talk about one run.

    Args:
      run: what draws.
      settings: at the beginning.
      write: takes what is drawn, as it is drawn.
      note: takes every other line that is for the person to read.
      told: further arguments of `TrainedModel.go_on`, the same for every text.
    """

    def __init__(
        self,
        run: TrainedModel,
        settings: Settings,
        *,
        write: Callable[[str], None],
        note: Callable[[str], None],
        **told: Any,
    ) -> None:
        check_stops(settings.stop, run.vocabulary)
        self._run, self._settings, self._told = run, settings, told
        self._write, self._note = write, note
        self._text: _Text | None = None
        self._next_sample = 0

    def obey(self, line: str) -> bool:
        """Do what a line says. A mistake, and Ctrl-C, end what it began and nothing else.

        Returns:
          Whether the talk goes on.
        """
        try:
            if not line.startswith("/"):
                if line:
                    self.begin(line)
                return True
            if line.startswith("//"):
                self.begin(line[1:])
                return True
            name, _, value = line[1:].partition(" ")
            return self._command(name, value)
        except CharlmError as error:
            self._note(str(error))
        except KeyboardInterrupt:
            self._note("interrupted")
        return True

    def begin(self, prompt: str) -> None:
        """Draw a text that goes on from a prompt, and print both."""
        self._draw(_Text(prompt, "", 0), above=prompt)

    def _command(self, name: str, value: str) -> bool:
        if name in _MEANINGS:
            self._change(name, value)
            return True
        actions = {"more": self._more, "again": self._again, "help": self._help}
        if name not in (*actions, "quit"):
            close = closest(name, [*_MEANINGS, *actions, "quit"])
            hint = f"did you mean /{close}?" if close else "/help lists the commands"
            raise CharlmError(f"no command /{name}, {hint}")
        if value.strip():
            raise CharlmError(f"/{name} takes no value")
        if name == "quit":
            return False
        actions[name]()
        return True

    def _change(self, name: str, value: str) -> None:
        new: Any
        if name == "stop":
            new = (parse_stop(value),) if value else ()
            check_stops(new, self._run.vocabulary)
        else:
            new = _number(name, value)
        self._settings = dataclasses.replace(self._settings, **{name: new})
        if name == "seed":
            self._next_sample = 0
        self._note(self._settings.describe(name))

    def _more(self) -> None:
        text = self._last_text()
        stop = text.stopped_by or ""
        self._draw(_Text(text.prompt, text.drawn + stop, text.sample), above=stop)

    def _again(self) -> None:
        text = self._last_text()
        self._draw(_Text(text.prompt, "", self._next_sample), above=text.prompt)

    def _last_text(self) -> _Text:
        if self._text is None:
            raise CharlmError("there is no text yet: type a prompt first")
        return self._text

    def _draw(self, text: _Text, *, above: str) -> None:
        settings = self._settings
        pieces = self._run.go_on(
            text.prompt + text.drawn,
            characters=settings.chars,
            policy=settings.policy,
            seed=settings.seed,
            sample=text.sample,
            drawn=len(text.drawn),
            **self._told,
        )
        self._text, self._next_sample = text, text.sample + 1
        self._write(above)
        try:
            for (piece,) in apply_stop_strings(
                ([piece] for piece in pieces), settings.stop, texts=1
            ):
                self._text = self._text._replace(
                    drawn=self._text.drawn + piece.text, stopped_by=piece.stopped_by
                )
                self._write(piece.text)
        finally:
            self._write("\n")

    def _help(self) -> None:
        settings = {f"/{self._settings.describe(name)}": text for name, text in _MEANINGS.items()}
        rows = settings | _HELP
        width = max(map(len, rows))
        for command, text in rows.items():
            self._note(f"{command:<{width}}  {text}")


def _number(name: str, value: str) -> Any:
    if not value.strip():
        raise CharlmError(f"/{name} has no value: write a number behind it")
    try:
        return _NUMBERS[name](value)
    except ValueError:
        kind = "an integer" if _NUMBERS[name] is int else "a number"
        raise CharlmError(f"/{name} {value.strip()} is not {kind}") from None
