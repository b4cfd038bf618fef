r"""Interactive sampling session: prompts, and slash commands that change the sampling settings.

A line is a prompt, or a command if it begins with a slash. A prompt yields sample 0 of its seed, so
its text equals that of `TrainedModel.sample` with the same settings. `/again` yields the next
sample. `/more` continues as a longer text would have done, under the current settings, except that
a stop string that begins in the earlier text has no effect. Prompts and stop strings have the
escapes of `typed_text`.
"""

import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from charlm_jax.cli.commands.sample_output import prompt_as_read
from charlm_jax.cli.output import in_flags
from charlm_jax.cli.typed_text import ESCAPES_HELP, needs_escapes, unescape
from charlm_jax.core.errors import CharlmError, closest
from charlm_jax.core.foreign_names import suggest_flag
from charlm_jax.core.limits import MAX_INT32, require_within
from charlm_jax.core.signals import deferred_signals
from charlm_jax.inference.trained_model import TrainedModel
from charlm_jax.sampling.categorical import temperature
from charlm_jax.sampling.params import SamplingParams
from charlm_jax.sampling.stop_strings import check_stops


class _Text(NamedTuple):
    """Last printed text, which `/more` continues and whose prompt `/again` samples again."""

    prompt: str
    sampled: str
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
    "/more": "continue the last text, past the stop string if one ended it",
    "/again": "sample the same prompt again with different noise",
    "/help": "show this list",
    "/quit": "quit; the end of the input does the same",
    "//TEXT": "use /TEXT as the prompt",
    "TEXT": f"sample a text that continues this prompt ({ESCAPES_HELP})",
}

_MEANINGS = {
    "scale": "scale factor of the logits (1 / temperature)",
    "top_k": "keep the K most probable characters; 0 keeps all",
    "top_p": "of these, keep the fewest whose total probability reaches P; 1 keeps all",
    "min_p": "of these, keep those at least P times as probable as the best; 0 keeps all",
    "chars": "number of characters to sample",
    "seed": "random seed",
    "stop": f"stop before this text ({ESCAPES_HELP}); /stop alone clears it",
}


class Session:
    """Interactive session with one run.

    Args:
      run: model to sample from.
      sampling: initial sampling parameters.
      characters: initial number of characters to sample.
      write: callback for the text, as it is sampled.
      note: callback for every other line shown to the user.

    Raises:
      CharlmError: the number of characters is out of range, or a stop string cannot occur.
    """

    def __init__(
        self,
        run: TrainedModel,
        sampling: SamplingParams,
        *,
        characters: int = 500,
        write: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        require_within("chars", characters, 0, MAX_INT32)
        check_stops(sampling.stop, run.vocabulary)
        self._run, self._sampling, self._characters = run, sampling, characters
        self._write, self._note = write, note
        self._text: _Text | None = None
        self._next_sample = 0

    def handle_line(self, line: str) -> bool:
        """Handle one line of input. An error or Ctrl-C ends the line's action, not the session.

        Returns:
          Whether the session continues.
        """
        try:
            if not line.startswith("/"):
                if line:
                    self.begin(unescape(line))
                return True
            if line.startswith("//"):
                self.begin(unescape(line[1:]))
                return True
            name, _, value = line[1:].partition(" ")
            return self._command(name, value)
        except CharlmError as error:
            self._note(in_flags(error))
        except KeyboardInterrupt:
            self._note("interrupted")
        return True

    def begin(self, prompt: str) -> None:
        """Sample a text that continues a prompt, and print both."""
        self._sample(_Text(prompt, "", 0))

    def _command(self, name: str, value: str) -> bool:
        if name in _MEANINGS:
            self._change(name, value)
            return True
        actions = {"more": self._more, "again": self._again, "help": self._help}
        if name not in (*actions, "quit"):
            settings = [f"--{setting}" for setting in _MEANINGS]
            close = closest(name, [*_MEANINGS, *actions, "quit"])
            hint = suggest_flag(name, settings, lambda flag: f"/{flag.removeprefix('--')}") or (
                f"did you mean /{close}?" if close else "/help lists the commands"
            )
            raise CharlmError(f"unknown command /{name}, {hint}")
        if value.strip():
            raise CharlmError(f"/{name} takes no value")
        if name == "quit":
            return False
        actions[name]()
        return True

    def _change(self, name: str, value: str) -> None:
        new: Any
        if name == "stop":
            new = (unescape(value),) if value else ()
            check_stops(new, self._run.vocabulary)
        else:
            new = _number(name, value)
        if name == "chars":
            require_within("chars", new, 0, MAX_INT32)
            self._characters = new
        else:
            self._sampling = dataclasses.replace(self._sampling, **{name: new})
        if name == "seed":
            self._next_sample = 0
        self._note(self._describe(name))

    def _describe(self, name: str) -> str:
        """Return the name and value of a setting."""
        if name == "chars":
            return f"chars {self._characters}"
        value = getattr(self._sampling, name)
        if name == "scale":
            return f"scale {value:g} (temperature {temperature(value):g})"
        if name == "stop":
            return "stop " + (" or ".join(map(repr, value)) or "none")
        return f"{name} {value}"

    def _more(self) -> None:
        text = self._last_text()
        stop = text.stopped_by or ""
        self._sample(_Text(text.prompt, text.sampled + stop, text.sample), above=stop)

    def _again(self) -> None:
        text = self._last_text()
        self._sample(_Text(text.prompt, "", self._next_sample))

    def _last_text(self) -> _Text:
        if self._text is None:
            raise CharlmError("there is no text yet: type a prompt first")
        return self._text

    def _sample(self, text: _Text, *, above: str | None = None) -> None:
        """Continue a text and print it after `above`, or after the prompt if that is None."""
        chunks = self._run.continue_text(
            text.prompt + text.sampled,
            self._sampling,
            characters=self._characters,
            sample=text.sample,
            sampled=len(self._run.vocabulary.to_symbols(text.sampled)),
        )
        self._text, self._next_sample = text, text.sample + 1
        if above is None:
            above = self._read_prompt(text.prompt)
        shown = self._run.vocabulary.shown
        self._write(shown(above))
        try:
            # JAX may drop an exception.
            with deferred_signals([signal.SIGINT], saves=False) as interrupted:
                for chunk in chunks:
                    self._text = self._text._replace(
                        sampled=self._text.sampled + chunk.text, stopped_by=chunk.stopped_by
                    )
                    self._write(shown(chunk.text))
                    if interrupted():
                        raise KeyboardInterrupt
        finally:
            self._write("\n")

    def _read_prompt(self, prompt: str) -> str:
        """Return a prompt as the model reads it, with notes on what its text does not show."""
        read, unknown = prompt_as_read(prompt, self._sampling, self._run.vocabulary)
        if needs_escapes(prompt):
            self._note(f"prompt {prompt!r}")
        if unknown:
            self._note(unknown)
        return read

    def _help(self) -> None:
        settings = {f"/{self._describe(name)}": text for name, text in _MEANINGS.items()}
        rows = settings | _HELP
        width = max(map(len, rows))
        for command, text in rows.items():
            self._note(f"{command:<{width}}  {text}")


def _number(name: str, value: str) -> Any:
    if not value.strip():
        raise CharlmError(f"/{name} needs a value: write a number after it")
    try:
        return _NUMBERS[name](value)
    except ValueError:
        kind = "an integer" if _NUMBERS[name] is int else "a number"
        raise CharlmError(f"/{name} {value.strip()} is not {kind}") from None
