"""A page about runs, section by section: `charlm report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from charlm_jax._version import __version__
from charlm_jax.comparison.findings import SAMPLE_SEED, ArmFacts, Findings, Heat, Sample, gather
from charlm_jax.data.download import Progress
from charlm_jax.evaluation.scoring import SLIDING_TARGETS
from charlm_jax.inference.run import Run
from charlm_jax.report.html.heat_text import HeatMap, heat_blocks
from charlm_jax.report.html.markup import Markup, details, element, markup, table
from charlm_jax.report.html.page import Block, Section, check_place, write_page
from charlm_jax.report.learning_curves import learning_curves
from charlm_jax.report.score_sections import (
    class_table,
    comparison_blocks,
    place_blocks,
    scored,
)
from charlm_jax.storage.weights import averaged_in_words

_LONGEST_TITLE = 80
_OPEN_SAMPLES = 4  # arms


class Description(NamedTuple):
    """A page but for its file."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]


def write_report(
    runs: Sequence[Run],
    path: Path | str,
    *,
    split: str = "valid",
    mode: str = "window",
    context: int | None = None,
    targets: int = SLIDING_TARGETS,
    title: str | None = None,
    sections: Sequence[Section] = (),
    command: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a page about one run, or about several side by side.

    Args:
      runs: of one text, vocabulary and split; `charlm_jax.load_run` picks them up.
      path: where to. A page that this function wrote is replaced, nothing else is.
      split: as in `charlm_jax.comparison.compare.compare`.
      mode: likewise.
      context: likewise.
      targets: likewise.
      title: of the page; it says what is compared if None.
      sections: more of them, behind the figures.
      command: one that makes this page, if there is one.
      progress: told how a download of the text goes.

    Returns:
      The file. The same runs give the same bytes.

    Raises:
      CharlmError: runs that cannot be compared, a file that is something else or cannot be written.
    """
    check_place(Path(path))
    rule: dict[str, Any] = {"split": split, "mode": mode, "context": context, "targets": targets}
    found = describe(gather(runs, **rule, progress=progress), command=command, more=sections)
    return write_page(path, title=title or found.title, lead=found.lead, sections=found.sections)


def describe(
    findings: Findings, *, command: str | None = None, more: Sequence[Section] = ()
) -> Description:
    """All that a page says.

    Args:
      findings: what was found.
      command: one that makes the page.
      more: sections behind the figures.
    """
    scores = findings.scores
    sections = []
    if scores is None:
        words = (
            "These runs hold no text out, so no held-out figure exists: nothing here says how "
            "well they predict text that they were not trained on. With config.split.kind=tail "
            "the end of the text is held out."
        )
        sections.append(Section("No held-out figure", [words]))
    else:
        heading = "Comparison" if len(findings.arms) > 1 else "Result"
        sections.append(Section(heading, comparison_blocks(scores, findings.arms)))
    sections.append(Section(*_configuration(findings)))
    if any(run.training or run.held_out for arm in findings.arms for run in arm.runs):
        sections.append(
            Section("Learning curves", [learning_curves(findings.arms, findings.valid_characters)])
        )
    if scores is not None:
        sections.append(Section("Loss by what was read before", place_blocks(scores)))
        sections.append(Section("Loss by class of character", [class_table(scores)]))
    sections += [
        *more,
        Section("Samples", _samples(findings)),
        Section("Surprise, character by character", _heat(findings.heat)),
    ]
    return Description(_title(findings), _lead(findings, command), sections)


def _title(findings: Findings) -> str:
    *names, last = (arm.name for arm in findings.arms)
    title = (f"{', '.join(names)} and " if names else "") + last
    if len(title) > _LONGEST_TITLE:
        title = f"{len(findings.arms)} arms" if names else "One arm"
    return f"{title} on {_text_name(findings)}"


def _text_name(findings: Findings) -> str:
    """Of a path its end."""
    return Path(findings.corpus).name or findings.corpus


def _lead(findings: Findings, command: str | None) -> list[Block]:
    runs = [run for arm in findings.arms for run in arm.runs]
    scores, newest = findings.scores, findings.newest
    steps = dict.fromkeys(
        f"step {run.checkpoint:,}{averaged_in_words(run.weights)}" for run in runs
    )
    unfinished = sum(not run.has_ended for run in runs)
    facts = {
        "Runs": f"{len(runs)}" + (f", of which {unfinished} not finished" if unfinished else ""),
        "Arms": "; ".join(map(_arm, findings.arms)),
        "Text": f"{_text_name(findings)}: {findings.characters:,} characters, "
        f"{findings.symbols} symbols",
        "Scored": "nothing: no text is held out" if scores is None else scored(scores),
        "Checkpoint" if len(steps) == 1 else "Checkpoints": "; ".join(steps),
        "Newest metrics": "none" if newest is None else f"{newest:%Y-%m-%d %H:%M} UTC",
        "Written by": f"charlm_jax {__version__}",
    }
    pairs = [markup(element("dt", name), element("dd", fact)) for name, fact in facts.items()]
    commands = [run.command for run in runs] + ([] if command is None else [command])
    words = "To train the same runs from the shipped configs"
    words += "" if command is None else ", and to make this page"
    box = {"tabindex": "0", "role": "region", "aria_label": "Commands"}
    listed = element("div", "\n".join(commands), class_="commands", **box)
    return [element("dl", *pairs), details("Commands", element("p", words + ":"), listed)]


def _arm(arm: ArmFacts) -> str:
    seeds = ", ".join(str(run.seed) for run in arm.runs)
    return f"{arm.name} ({'seed' if len(arm.runs) == 1 else 'seeds'} {seeds})"


def _configuration(findings: Findings) -> tuple[str, list[Block]]:
    same = table(
        ["config.", "value"],
        [[field, value] for field, value in findings.shared.items()],
        caption=f"{len(findings.shared)} fields",
        text_columns=2,
    )
    if not findings.differing:
        return "Configuration", [details("Every field", same)]
    differing = table(
        ["config.", *(arm.name for arm in findings.arms)],
        [[field, *values] for field, values in findings.differing.items()],
        caption="Fields in which runs differ",
    )
    return "Configuration", [differing, details("What all have", same)]


def _samples(findings: Findings) -> list[Block]:
    blocks: list[Block] = [
        markup(
            element(
                "p",
                "Each arm's first run goes on from the same prompt, with the same noise at every "
                "scale and for every arm: what differs is the scale, and the model. The scale "
                "factor multiplies the logits; it is 1 / temperature.",
            ),
            element(
                "p", f"Prompt, in bold, from the {findings.heat.split} part; seed {SAMPLE_SEED}."
            ),
        )
    ]
    for number, (arm, samples) in enumerate(zip(findings.arms, findings.samples, strict=True)):
        texts = [_sample(findings.prompt, sample) for sample in samples]
        body = element("div", *texts, class_="side")
        is_open = number < _OPEN_SAMPLES
        blocks.append(details(f"{arm.name}, seed {arm.runs[0].seed}", body, is_open=is_open))
    return blocks


def _sample(prompt: str, sample: Sample) -> Markup:
    heading = f"Scale {sample.scale:g} (temperature {sample.temperature:g})"
    text = element("div", element("b", prompt), sample.text, class_="text")
    return element("div", element("h3", heading), text)


def _heat(heat: Heat) -> list[Block]:
    first, last = heat.passage.start + 1, heat.passage.stop
    kind = "training" if heat.split == "train" else f"held-out ({heat.split})"
    about = (
        f"Characters {first:,} to {last:,} of the text, from the middle of the {kind} part. The "
        f"darker or, on a dark page, the brighter, the less was a character expected; point at it "
        f"for its figure."
    )
    if heat.split == "train":
        about += " The model was trained on this very text."
    labelled = zip(heat.labels, heat.nll_RN, heat.rules, strict=True)
    return [about, *heat_blocks(heat.text, [HeatMap(*facts) for facts in labelled])]
