"""Pages about runs, for `charlm report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from charlm_jax._version import __version__
from charlm_jax.comparison.findings import SAMPLE_SEED, GroupFacts, ReportData, Sample, gather
from charlm_jax.core.files import user_path
from charlm_jax.core.progress import Report, report_nothing
from charlm_jax.data.corpora import corpus_title
from charlm_jax.data.download import Progress
from charlm_jax.evaluation.protocol import EvalProtocol
from charlm_jax.inference.run import Runs, open_runs
from charlm_jax.report.headline import report_headline
from charlm_jax.report.html.heat_text import LATIN_1, HeatMap, heat_blocks
from charlm_jax.report.html.page import (
    PageBlock,
    Section,
    Table,
    check_page_path,
    details,
    write_page,
)
from charlm_jax.report.html.rendering import render
from charlm_jax.report.learning_curves import learning_curves
from charlm_jax.report.score_sections import (
    BYTE_CLASSES,
    class_table,
    comparison_blocks,
    position_blocks,
    scored,
)
from charlm_jax.report.unit_text import unit_blocks
from charlm_jax.storage.weights import describe_average

_MAX_TITLE = 80
_OPEN_SAMPLES = 4  # groups whose samples are unfolded


class Description(NamedTuple):
    """Content of a page."""

    title: str
    lead: Sequence[PageBlock]
    sections: Sequence[Section]


def write_report(
    runs: Runs,
    path: Path | str,
    protocol: EvalProtocol | None = None,
    *,
    split: str = "valid",
    title: str | None = None,
    sections: Sequence[Section] = (),
    command: str | None = None,
    baselines: bool = True,
    progress: Progress | None = None,
    report: Report = report_nothing,
) -> Path:
    """Write a page about one run, or about several side by side.

    Args:
      runs: runs of one text, vocabulary and split, or folders of such runs.
      path: file to write. Only a page that this function wrote is replaced.
      protocol: evaluation protocol; if None, windows of the length that all runs validate with.
      split: `valid`, `test` or `train`.
      title: title of the page; if None, the names of the groups and the text.
      sections: further sections, after the results.
      command: command that writes this page, if there is one.
      baselines: whether to score simple predictors too.
      progress: callback for the download of the text.
      report: callback for the progress of the computation.

    Returns:
      The file. The same runs give the same bytes.

    Raises:
      CharlmError: the runs cannot be compared, the file is something else, or it cannot be written.
    """
    check_page_path(user_path(path))
    data = gather(
        open_runs(runs),
        protocol,
        split=split,
        baselines=baselines,
        progress=progress,
        report=report,
    )
    page = describe(data, command=command, more=sections)
    return write_page(path, title=title or page.title, lead=page.lead, sections=page.sections)


def describe(
    findings: ReportData, *, command: str | None = None, more: Sequence[Section] = ()
) -> Description:
    """Return the content of a page.

    Args:
      findings: plain data about the runs.
      command: command that writes the page, if there is one.
      more: sections after the results.
    """
    scores, groups = findings.scores, findings.groups
    sections = [Section("Samples", _samples(findings))]
    if scores is None:
        text = (
            "These runs have no held-out text, so this page cannot show how well they predict new "
            "text. Set config.split.kind=tail to hold out the end of the text."
        )
        sections.append(Section("No held-out loss", [text]))
    else:
        heading = "Comparison" if len(groups) > 1 else "Result"
        sections.append(Section(heading, comparison_blocks(scores, groups)))
    sections.append(Section("Surprise at every character", _heat(findings)))
    if findings.units is not None:
        sections.append(Section("Text coloured by one unit", unit_blocks(findings.units)))
    if any(run.training or run.held_out for group in groups for run in group.runs):
        sections.append(
            Section("Learning curves", learning_curves(groups, findings.watched_characters))
        )
    if scores is not None:
        heading = f"Loss by number of preceding {findings.unit}"
        sections.append(Section(heading, position_blocks(scores)))
        about = [BYTE_CLASSES] if findings.unit == "bytes" else []
        sections.append(Section("Loss by character class", [*about, class_table(scores)]))
    sections += [
        *more,
        Section("Runs and configuration", [*_facts(findings, command), *_configuration(findings)]),
    ]
    lead = [render("blocks.html.j2", "headline", sentences=report_headline(findings))]
    return Description(_title(findings), lead, sections)


def _title(findings: ReportData) -> str:
    *names, last = (group.name for group in findings.groups)
    title = (f"{', '.join(names)} and " if names else "") + last
    if len(title) > _MAX_TITLE:
        title = f"{len(findings.groups)} groups" if names else "One group"
    return f"{title} on {corpus_title(findings.corpus)}"


def _facts(findings: ReportData, command: str | None) -> list[PageBlock]:
    runs = [run for group in findings.groups for run in group.runs]
    scores, newest = findings.scores, findings.newest
    steps = dict.fromkeys(f"step {run.checkpoint:,}{describe_average(run.weights)}" for run in runs)
    unfinished = sum(not run.has_ended for run in runs)
    facts = {
        "Runs": f"{len(runs)}" + (f", of which {unfinished} not finished" if unfinished else ""),
        "Groups": "; ".join(map(_group_label, findings.groups)),
        "Text": f"{corpus_title(findings.corpus)}: {findings.characters:,} {findings.unit}, "
        f"{findings.symbols} symbols",
        "Scored": "none: no text is held out" if scores is None else scored(scores),
        "Checkpoint" if len(steps) == 1 else "Checkpoints": "; ".join(steps),
    }
    if unfinished:
        facts["Newest metrics"] = "none" if newest is None else f"{newest:%Y-%m-%d %H:%M} UTC"
    facts["Written by"] = f"charlm_jax {__version__}"
    commands = [run.command for run in runs] + ([] if command is None else [command])
    purpose = "To train the same runs" + ("" if command is None else ", and to write this page")
    return [
        render("blocks.html.j2", "facts", pairs=facts.items()),
        details("Commands", f"{purpose}:", render("blocks.html.j2", "commands", lines=commands)),
    ]


def _group_label(group: GroupFacts) -> str:
    seeds = ", ".join(str(run.seed) for run in group.runs)
    return f"{group.name} ({'seed' if len(group.runs) == 1 else 'seeds'} {seeds})"


def _configuration(findings: ReportData) -> list[PageBlock]:
    shared = Table(
        ["config.", "value"],
        [[field, value] for field, value in findings.shared.items()],
        f"{len(findings.shared)} fields",
        text_columns=2,
    )
    if not findings.differing:
        return [details("All fields", shared)]
    differing = Table(
        ["config.", *(group.name for group in findings.groups)],
        [[field, *values] for field, values in findings.differing.items()],
        "Fields in which runs differ",
    )
    return [differing, details("Fields shared by all runs", shared)]


def _samples(findings: ReportData) -> list[PageBlock]:
    is_alone = len(findings.groups) == 1
    who = "The model" if is_alone else "The first run of each group"
    blocks: list[PageBlock] = [
        f"{who} continues one prompt, in bold, from the {_part(findings.heat.split)} part (seed "
        f"{SAMPLE_SEED}). The scale factor multiplies the logits; it is 1/temperature. Low scales "
        f"are wilder, high ones more predictable. The noise is the same everywhere: texts differ "
        f"by scale and model alone.",
    ]
    for number, (group, samples) in enumerate(zip(findings.groups, findings.samples, strict=True)):
        texts = [_sample(findings.prompt, sample) for sample in samples]
        body = render("blocks.html.j2", "grid", css_class="side", blocks=texts)
        is_open = number < _OPEN_SAMPLES
        name = f"{group.name}, seed {group.runs[0].seed}"
        blocks.append(body if is_alone else details(name, body, is_open=is_open))
    return blocks


def _part(split: str) -> str:
    return "training" if split == "train" else f"held-out ({split})"


def _sample(prompt: str, sample: Sample) -> Markup:
    heading = f"Scale {sample.scale:g} (temperature {sample.temperature:g})"
    return render("blocks.html.j2", "sample", heading=heading, prompt=prompt, text=sample.text)


def _heat(findings: ReportData) -> list[PageBlock]:
    heat = findings.heat
    first, last = heat.passage.start + 1, heat.passage.stop
    about = (
        f"Characters {first:,} to {last:,} of the text, from the middle of the "
        f"{_part(heat.split)} part. Stronger colours mark more surprise; point at a character, "
        f"touch it, or choose it by the arrow keys for its bits of surprise, its probability and "
        f"the most probable characters."
    )
    if heat.split == "train":
        about += " The model was trained on this text."
    blocks: list[PageBlock] = [about]
    if findings.unit == "bytes":
        blocks.append(LATIN_1)
    maps = [
        HeatMap(label, nll_N, rule, predictions, notes={})
        for label, nll_N, rule, predictions in zip(
            heat.labels, heat.nll_RN, heat.rules, heat.predictions, strict=True
        )
    ]
    return [*blocks, *heat_blocks(heat.text, maps)]
