"""Pages inside a notebook, in a frame of their own."""

import dataclasses

_TALLEST = 640  # pixels


@dataclasses.dataclass(frozen=True)
class InlinePage:
    """A page that a notebook shows in a frame, so that neither styles the other.

    The frame is sandboxed: nothing in it can reach the notebook, and scripts run only if that is
    allowed. A notebook that is not trusted, and viewers that remove frames, show a line of text.

    Attributes:
      html: the whole page.
      height: expected height of the page in pixels; the frame is at most 640 high, and the reader
        can resize it.
      runs_scripts: whether scripts of the page run, in an origin of their own.
    """

    html: str = dataclasses.field(repr=False)
    height: int
    runs_scripts: bool = False

    def _repr_html_(self) -> str:
        height = min(self.height, _TALLEST)
        style = f"width: 100%; height: {height}px; border: 0; resize: vertical"
        page = self.html.replace("&", "&amp;").replace("'", "&#39;")  # it has fewer of these quotes
        page = page.replace("\n", "&#10;")  # shorter than a line in a notebook's file
        sandbox = 'sandbox="allow-scripts"' if self.runs_scripts else "sandbox"
        frame = f'<iframe {sandbox} style="{style}"'
        return f"{frame} srcdoc='{page}'>{_INSTEAD}</iframe>"


_INSTEAD = "To see this page, run the cell, or trust the notebook (File, Trust Notebook)."
