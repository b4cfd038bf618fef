"""The answer of the study of sequence lengths, in sentences made from its numbers."""

from collections.abc import Mapping, Sequence

from charlm_jax.evaluation.bootstrap import Difference, Interval
from experiments.sequence_length.measures import Arm, Figures, Group, RateKey

TEXTBOOK_LENGTH = 40


def answer(
    groups: Sequence[Group],
    figures: Mapping[Arm, Figures],
    carried: Mapping[tuple[str, int], Difference],
    effective: Mapping[str, Mapping[str, int]],
    baseline: tuple[str, Interval],
    tried: Mapping[RateKey, Mapping[float, float]],
) -> list[str]:
    """Paragraphs.

    Args:
      groups: arms that differ by their length alone.
      figures: of every arm.
      carried: what carrying the state changes, by model and length.
      effective: model -> change -> effective context in characters.
      baseline: name and loss of the best simple predictor.
      tried: loss by learning rate, for every model, length and state.
    """
    paragraphs = [_shortest(groups), *_few_seeds(figures), *_edges(tried)]
    paragraphs += [_best(group, figures) for group in groups]
    for model in dict.fromkeys(group.model for group in groups):
        paragraphs += _carrying(model, {t: d for (m, t), d in carried.items() if m == model})
        paragraphs += [
            _claim(group)
            for group in groups
            if (group.model, group.state, group.budget) == (model, "reset", "characters")
        ]
        if model in effective:
            paragraphs.append(_effective(model, effective[model]))
    return [*paragraphs, _beside(baseline, figures)]


def _shortest(groups: Sequence[Group]) -> str:
    found = [
        f"{group.model} {min(group.as_good)} (state {group.state}, equal {group.budget})"
        for group in groups
    ]
    return (
        "The shortest training sequences, in characters, that are not shown to be worse than the "
        f"best: {', '.join(found)}."
    )


def _few_seeds(figures: Mapping[Arm, Figures]) -> list[str]:
    fewest = min(len(arm.seeds) for arm in figures)
    if fewest == 1:
        return ["One run of each arm cannot say what another seed would have changed."]
    if fewest == 2:
        return [
            "Two runs of each arm say little of how far seeds lie apart: the intervals are wide, "
            "and a difference that is not shown here may well be shown by more seeds."
        ]
    return []


def _edges(tried: Mapping[RateKey, Mapping[float, float]]) -> list[str]:
    """Where a rate beyond those that were tried might do better."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for (model, length, state), losses in tried.items():
        best = min(losses, key=losses.__getitem__)
        for word, edge in (("highest", max(losses)), ("lowest", min(losses))):
            if best == edge and len(losses) > 1:
                places.setdefault((model, state, word), []).append(length)
    if not places:
        return []
    found = "; ".join(
        f"{model}, state {state}, at T = {_listed(lengths)} (the {word})"
        for (model, state, word), lengths in sorted(places.items())
    )
    count = sum(map(len, places.values()))
    return [
        f"For {count} of {len(tried)} choices of a learning rate the best of those tried was the "
        f"highest or the lowest, so that one beyond might do better: {found}."
    ]


def _best(group: Group, figures: Mapping[Arm, Figures]) -> str:
    arms = {
        arm.length: arm
        for arm in figures
        if (arm.model, arm.state, arm.budget) == (group.model, group.state, group.budget)
    }
    best = arms[group.best_length]
    amount = (
        f"{best.characters:,} characters"
        if group.budget == "characters"
        else f"{best.seconds:,.0f} seconds of training"
    )
    loss = figures[best].stream
    words = (
        f"{group.model}, state {group.state}, {amount}: the best on the second part is T = "
        f"{best.length}, which pays {loss.in_words()} nats per character on the third."
    )
    others = [length for length in group.as_good if length != best.length]
    if others:
        words += f" Not shown to be worse: T = {_listed(others)}."
    if TEXTBOOK_LENGTH in group.lengths:
        found = group.to_best[group.lengths.index(TEXTBOOK_LENGTH)]
        if found is not None and found.is_significant and found.mean > 0:
            words += f" The textbook's T = {TEXTBOOK_LENGTH} pays {_ends(found)} more."
    return words


def _carrying(model: str, by_length: Mapping[int, Difference]) -> list[str]:
    if not by_length:
        return []
    better = {t: d for t, d in by_length.items() if d.is_significant and d.mean < 0}
    worse = {t: d for t, d in by_length.items() if d.is_significant and d.mean > 0}
    neither = [t for t, d in by_length.items() if not d.is_significant]
    parts = []
    for word, found in (("lowers", better), ("raises", worse)):
        if found:
            amounts = [f"T = {t} by {abs(d.mean):.4f}" for t, d in sorted(found.items())]
            parts.append(f"{word} the loss at {_listed(amounts)}")
    if neither:
        parts.append(f"changes nothing that is shown at T = {_listed(sorted(neither))}")
    return [f"{model}: carrying the state from batch to batch {'; '.join(parts)}."]


def _claim(group: Group) -> str:
    """What becomes of the chapter's sentence about short sequences."""
    shortest = group.lengths[0]
    head = (
        f'{group.model}: the chapter says that short sequences "learn words and ignore context". '
    )
    if not group.by_class:
        return f"{head}Here the shortest, T = {shortest}, is the best: that is not seen."
    costs = ", ".join(
        f"{name} {_ends(found) if found.is_significant else 'no difference shown'}"
        for name, found in group.by_class.items()
    )
    costs = f"T = {shortest} less T = {group.best_length}, by kind of character: {costs}."
    first, later = (group.by_class.get(name) for name in ("first letter", "later letter"))
    if first is None or later is None or not first.is_significant or first.mean < 0:
        verdict = "Which word comes next is not shown to be guessed worse: the claim is not seen."
    elif not later.is_significant:
        verdict = (
            "Words are spelt as well, and which word comes is guessed worse: as the chapter says."
        )
    elif later.mean > 0:
        more = "more" if first.low > later.high else "not clearly more"
        verdict = (
            f"Context counts, since which word comes is guessed worse; but the short length also "
            f"spells worse, and the beginning of a word loses {more} than the rest of it: the "
            f"claim holds in part."
        )
    else:
        verdict = "Words are spelt better, and which word comes is guessed worse."
    return f"{head}{costs} {verdict}"


def _effective(model: str, by_change: Mapping[str, int]) -> str:
    words = {
        "truncated": "beyond {n} characters nothing is gained by reading more",
        "shuffled": "beyond {n} their order does not matter",
        "replaced": "beyond {n} they may be those of another passage",
    }
    parts = [words[change].format(n=n) for change, n in by_change.items()]
    return f"{model}: to within a hundredth of the loss, {'; '.join(parts)}."


def _beside(baseline: tuple[str, Interval], figures: Mapping[Arm, Figures]) -> str:
    name, loss = baseline
    better = [arm for arm, found in figures.items() if found.stream.mean < loss.mean]
    share = f"{len(better)} of the {len(figures)} arms" if better else "none of the arms"
    return (
        f"Counting alone, a {name} fitted to the same training text, pays {loss.mean:.4f} nats; "
        f"{share} {'pay' if len(better) != 1 else 'pays'} less."
    )


def _ends(found: Difference) -> str:
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _listed(items: Sequence[object]) -> str:
    """One, two and three in a row.

    >>> _listed([5]), _listed([5, 10]), _listed([5, 10, 20])
    ('5', '5 and 10', '5, 10 and 20')
    """
    *front, last = map(str, items)
    return f"{', '.join(front)} and {last}" if front else last
