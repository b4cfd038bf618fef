"""Checks of a model's length and context limits, made before anything is computed."""

from charlm_jax.core.errors import CharlmError
from charlm_jax.data.splits import Part
from charlm_jax.evaluation.protocol import EvalProtocol, Stream, Window, check_protocol
from charlm_jax.models import LanguageModel


def resolve_protocol(
    requested: EvalProtocol | None, model: LanguageModel, *, context: int
) -> EvalProtocol:
    """Fill in the parts of a protocol that depend on the run.

    Args:
      requested: evaluation protocol; a window of the default context if None.
      model: model to score.
      context: default context, used in the run's validation.

    Returns:
      The protocol. The context of a stream is None if the model does not depend on one.

    Raises:
      CharlmError: a context is requested for the stream of a model that has none, or the value is
        not a protocol.
    """
    if requested is None:
        return Window(context)
    check_protocol(requested)
    if not isinstance(requested, Stream):
        return requested
    check_context_is_used(model, requested.mode, requested.context)
    if requested.context is None and model.keeps_positions:
        return Stream(context)
    return requested


def check_context_is_used(model: LanguageModel, mode: str, context: int | None) -> None:
    """Refuse a context that has no effect: a recurrent state depends on all previous characters.

    Args:
      model: model to run.
      mode: sampling or evaluation mode, for the message.
      context: requested number of past positions; None if none was requested.

    Raises:
      CharlmError: a context is requested of a model without one.
    """
    if context is not None and not model.keeps_positions:
        raise CharlmError(
            f"mode={mode} takes no context: the model's state depends on all previous characters; "
            f"to limit the context, use mode=window"
        )


def check_length(
    model: LanguageModel,
    what: str,
    characters: int,
    *,
    advice: str = "use mode=window with a context",
) -> None:
    """Refuse more characters than a model has learned positions.

    Args:
      model: model to run.
      what: what is read, for the message.
      characters: number of characters read from the initial state.
      advice: what may be at most as long as the model, for the message.

    Raises:
      CharlmError: the model has learned fewer positions.
    """
    maximum = model.max_length
    if maximum is not None and characters > maximum:
        raise CharlmError(
            f"{what} needs {characters} positions, but the model has {maximum} "
            f"(config.model.max_length): {advice} of at most {maximum}"
        )


def check_part(model: LanguageModel, part: Part, protocol: EvalProtocol) -> None:
    """Refuse a part of which a protocol reads more characters than the model has positions.

    Raises:
      CharlmError: the model has learned fewer positions.
    """
    what = "the text" if isinstance(protocol, Stream) else "the window"
    check_length(model, what, protocol.longest_read(part))
