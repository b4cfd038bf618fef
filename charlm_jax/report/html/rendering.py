"""Jinja templates of pages; every value is escaped as text, unless it is `Markup`."""

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, macro: str | None = None, /, **values: object) -> Markup:
    """Render a file of `templates/`, or one of its macros."""
    loaded = _ENVIRONMENT.get_template(template)
    if macro is None:
        return Markup(loaded.render(**values))
    return Markup(getattr(loaded.module, macro)(**values))


def format_coordinate(value: float) -> str:
    """Format a number for a drawing, with up to two decimals.

    >>> format_coordinate(1.5), format_coordinate(-0.001), format_coordinate(0.126)
    ('1.5', '0', '0.13')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def format_percent(share: float) -> str:
    """Format a share from 0 to 1 in per cent, in at most seven characters.

    The playground's `formatPercent` does the same.

    >>> [format_percent(share) for share in (1.0, 0.4512, 0.0934, 0.0004, 1e-9, 0.0)]
    ['100 %', '45.1 %', '9.3 %', '0.04 %', '<0.01 %', '0 %']
    """
    percent = 100 * share
    if percent == 0:
        return "0 %"
    if percent < 0.01:
        return "<0.01 %"
    return f"{percent:.{2 if percent < 1 else 1 if percent < 99.95 else 0}f} %"


def make_environment(package: str, folder: str) -> Environment:
    """Return an environment for the templates of a package, which escapes every value.

    Args:
      package: name of the package.
      folder: folder of the templates in it; empty for its own.
    """
    return Environment(
        loader=PackageLoader(package, folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


_ENVIRONMENT = make_environment("charlm_jax.report.html", "templates")
_ENVIRONMENT.filters["coordinate"] = format_coordinate
