"""Reports from Jinja2 templates of Markdown, as Markdown and as one self-contained HTML page.

Text and tables are the same in both; only the page has figures.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from cxr.common.files import replacing
from cxr.errors import CxrError
from cxr.reporting.templates import ENVIRONMENT

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
SCROLLING = '<div class="wide" role="region" aria-label="table" tabindex="0"><table>'
# Caption, SVG text or gray uint8 (H, W), alternative text.
Figure = tuple[str, str | NDArray[np.uint8], str]


def code(text: str) -> str:
    """Markdown code span that shows a name literally, whatever characters it has."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table of text or numbers, without the index."""
    escaped = frame.map(lambda cell: str(cell).replace("|", "\\|"))
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Floats as text with three decimals; a named index becomes the first columns."""
    if any(frame.index.names):
        frame = frame.reset_index()
    return frame.map(lambda cell: f"{cell:.3f}" if isinstance(cell, float) else cell)


def percent(fraction: float) -> str:
    """Format a fraction, such as `62.5 %`, with at most one decimal."""
    return f"{round(100 * fraction, 1):g} %"


def _data_uri(image: str | NDArray[np.uint8]) -> str:
    if isinstance(image, str):
        kind, content = "svg+xml", image.encode()
    else:
        kind = "jpeg"
        content = iio.imwrite("<bytes>", image, extension=".jpeg", plugin="pillow", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


ENVIRONMENT.filters["table"] = lambda frame: markdown_table(rounded(frame))
ENVIRONMENT.filters["percent"] = percent
ENVIRONMENT.filters["data_uri"] = _data_uri


@dataclass(frozen=True)
class Document:
    """A Markdown template with its inputs.

    Attributes:
        template: name of a file in reporting/templates. Its first line is the title;
            `{{ figures(...) }}` inserts any number of `Figure`.
        inputs: values of the names in the template.
    """

    template: str
    inputs: Mapping[str, Any]

    def to_markdown(self) -> str:
        """Render text and tables."""
        return self._render(lambda *figures: "")

    def to_html(self) -> str:
        """Render one page that loads no other file."""
        galleries: list[Sequence[Figure]] = []

        def insert(*figures: Figure) -> str:
            galleries.append(figures)
            return f"```figures\n{len(galleries) - 1}\n```" if figures else ""

        return html_page(self._render(insert), galleries)

    def _render(self, figures: Any) -> str:
        text = ENVIRONMENT.get_template(self.template).render(self.inputs, figures=figures)
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    def write(self, markdown: Path, page: Path) -> None:
        """Write both forms, each atomically."""
        for path, text in ((markdown, self.to_markdown()), (page, self.to_html())):
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")


def html_page(
    markdown: str, galleries: Sequence[Sequence[Figure]] = (), *, served: bool = False
) -> str:
    """Render Markdown as an HTML page with a table of contents.

    Args:
        markdown: starts with a heading of level 1, which becomes the title.
        galleries: figures for the code blocks `figures` of the Markdown, each of which holds the
            index of a gallery.
        served: for `cxr serve`: with links to its style and main page, and without inline styles,
            which its Content-Security-Policy forbids.

    Raises:
        ValueError: the Markdown has no title.
    """
    tokens = MARKDOWN.parse(markdown)
    if not tokens or tokens[0].tag != "h1":
        raise ValueError("the Markdown does not start with a title")
    contents = []
    for position, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            heading = tokens[position + 1].content
            anchor = "".join(c if c.isalnum() else "-" for c in heading.lower()).strip("-")
            token.attrSet("id", anchor)
            contents.append((anchor, heading))
        if token.type == "fence" and token.info == "figures" and galleries:
            figures = galleries[int(token.content)]
            token.type = "html_block"
            token.content = ENVIRONMENT.get_template("figures.html.j2").render(figures=figures)
    body = MARKDOWN.renderer.render(tokens[3:], MARKDOWN.options, {})
    body = body.replace("</table>", "</table></div>").replace("<table>", SCROLLING)
    return ENVIRONMENT.get_template("page.html.j2").render(
        title=tokens[1].content,
        contents=contents,
        body=re.sub(' style="text-align:[a-z]+"', "", body),
        served=served,
    )


def with_table(text: str, name: str, content: pd.DataFrame) -> str:
    """Replace the table between the comments `name` and `end of name` of a Markdown text.

    Raises:
        CxrError: the text lacks one of the comments.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise CxrError(f"marker comments {start} ... {end} not found in the file; restore them")
    return f"{before}{start}\n\n{markdown_table(content)}\n\n{end}{after}"
