"""What a model cannot read, refused in one line before anything is computed."""

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part, target_positions
from charlm_jax.models import LanguageModel


def check_context_is_used(model: LanguageModel, mode: str, context: int | None) -> None:
    """Refuse a context that nothing would use: a recurrent state has read all that came before."""
    if context is not None and not model.keeps_positions:
        raise CharlmError(
            f"mode={mode} has no context to set, it reads all that came before; mode=window has one"
        )


def check_length(model: LanguageModel, what: str, characters: int) -> None:
    """Refuse more characters than the model has places for, where every place has a vector."""
    most = model.max_length
    if most is not None and characters > most:
        raise CharlmError(
            f"{what} takes {characters} places and the model has {most} "
            f"(config.model.max_length): mode=window with a context of at most {most} can do it"
        )


def check_part(model: LanguageModel, part: Part, *, mode: str, context: int) -> None:
    """Refuse to score a part by a rule under which the model would read too much at once."""
    longest = max(len(target_positions(stretch)) for stretch in part)
    if mode == "stream":
        check_length(model, "the text", longest)
    else:
        check_length(model, "the window", min(longest, context) if mode == "window" else context)
