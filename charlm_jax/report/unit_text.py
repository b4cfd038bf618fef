"""Sections that show units of a run which follow a property of the text."""

from collections.abc import Sequence

from charlm_jax.analysis.unit_ranking import UnitPick
from charlm_jax.comparison.units import RunUnits
from charlm_jax.report.html.heat_text import strength_legend, strength_text
from charlm_jax.report.html.page import PageBlock, Table, figure
from charlm_jax.report.html.rendering import format_percent, render

_SYMBOL_ALONE = "last character alone"


def unit_blocks(found: RunUnits) -> list[PageBlock]:
    """Return how well each pick follows its property, and a text coloured by each."""
    ranking = found.ranking
    about = (
        f"Each of the {ranking.units:,} recurrent units of {found.label} was compared with a few "
        f"properties of the text, and the one that follows a property best was picked for it, on "
        f"{ranking.picked_characters:,} characters of {found.picked_on}. The best of so many fits "
        f"that text partly by chance, so it is scored on {ranking.tested_characters:,} characters "
        f"of {found.tested_on}, which played no part in the choice."
    )
    measure = (
        "The figures are areas under the ROC curve (AUC): how often the unit is further up at a "
        "place with the property than at one without. 50 % is chance, 100 % is perfect. The column "
        f"“{_SYMBOL_ALONE}” is what the last character read tells without any model: a unit that "
        "is not above it remembers nothing more. A unit that follows a property need not be used "
        "for it. Each text is the piece of the other text in which its property changes most often."
    )
    legend = strength_legend("property unlikely", "likely")
    texts = [
        figure(
            _caption(pick),
            strength_text(text, pick.strength_T, pick.holds_T, label=pick.property_name),
        )
        for pick, text in zip(ranking.picks, found.texts, strict=True)
    ]
    drawings = render("blocks.html.j2", "grid", css_class="units", blocks=texts)
    return [about, measure, _table(ranking.picks), legend, drawings]


def _table(picks: Sequence[UnitPick]) -> Table:
    rows = [
        [
            pick.property_name,
            _name(pick),
            format_percent(pick.picked_auc),
            format_percent(pick.tested_auc),
            format_percent(pick.symbol_auc),
            f"{pick.places:,}",
        ]
        for pick in picks
    ]
    columns = [
        "property",
        "unit",
        "AUC, text of the choice",
        "AUC, other text",
        _SYMBOL_ALONE,
        "places",
    ]
    caption = "AUC, and the number of scored places that have the property"
    return Table(columns, rows, caption, text_columns=2)


def _caption(pick: UnitPick) -> str:
    end = "high" if pick.is_high else "low"
    name = pick.property_name[0].upper() + pick.property_name[1:]
    return (
        f"{name}: {_name(pick)}, coloured where it is {end}. Underlined: places with the property."
    )


def _name(pick: UnitPick) -> str:
    layer = pick.layer.replace("_", " ")
    return f"unit {pick.unit} ({pick.array}) of {layer} ({pick.kind})"
