"""A document of sections, written as Markdown or as one self-contained HTML page.

Text and tables are the same in both; charts and pictures of images are in the page alone.
"""

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import imageio.v3 as iio
import numpy as np
import pandas as pd
from markdown_it import MarkdownIt
from numpy.typing import NDArray

from cxr.errors import CxrError
from cxr.files import replacing

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def code(text: str) -> str:
    """Markdown that shows a name letter by letter, whatever it holds."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


@dataclass(frozen=True)
class Table:
    """Rows of text or numbers; a column of numbers is aligned to the right."""

    frame: pd.DataFrame

    def to_markdown(self) -> str:
        escaped = self.frame.map(lambda cell: str(cell).replace("|", "\\|"))
        return str(escaped.to_markdown(index=False, disable_numparse=True))

    def to_html(self) -> str:
        return f'<div class="wide" tabindex="0">{MARKDOWN.render(self.to_markdown())}</div>'


@dataclass(frozen=True)
class Chart:
    """An SVG picture with its title and what a reader who cannot see it is told."""

    title: str
    svg: str
    alternative: str

    def to_html(self) -> str:
        source = base64.b64encode(self.svg.encode()).decode()
        return (
            f"<figure><figcaption>{html.escape(self.title)}</figcaption>"
            f'<img src="data:image/svg+xml;base64,{source}" alt="{html.escape(self.alternative)}">'
            "</figure>"
        )


@dataclass(frozen=True)
class Radiograph:
    """A grey image uint8 (H, W) with its caption."""

    image: NDArray[np.uint8]
    caption: str

    def to_html(self) -> str:
        jpeg = iio.imwrite("<bytes>", self.image, extension=".jpeg", plugin="pillow", quality=85)
        source = base64.b64encode(jpeg).decode()
        caption = html.escape(self.caption)
        return (
            f'<figure><img src="data:image/jpeg;base64,{source}" alt="Radiograph: {caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


# A list is a gallery of charts or of radiographs; text is Markdown.
Block = str | Table | list[Chart] | list[Radiograph]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Document:
    """A title and its sections."""

    title: str
    sections: list[Section]

    def to_markdown(self) -> str:
        """Text and tables."""
        parts = [f"# {self.title}"]
        for section in self.sections:
            parts.append(f"## {section.title}")
            parts += [
                block if isinstance(block, str) else block.to_markdown()
                for block in section.blocks
                if isinstance(block, str | Table)
            ]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One page that asks for nothing outside itself."""
        body = "\n".join(_section_html(section) for section in self.sections)
        contents = "".join(
            f'<li><a href="#{_anchor(s.title)}">{html.escape(s.title)}</a></li>'
            for s in self.sections
        )
        return PAGE.substitute(title=html.escape(self.title), contents=contents, body=body)

    def write(self, markdown: Path, page: Path) -> None:
        """Write both forms, each whole or not at all."""
        for path, text in ((markdown, self.to_markdown()), (page, self.to_html())):
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")


def _section_html(section: Section) -> str:
    blocks = "\n".join(_block_html(block) for block in section.blocks)
    anchor = _anchor(section.title)
    return f'<section id="{anchor}"><h2>{html.escape(section.title)}</h2>\n{blocks}</section>'


def _block_html(block: Block) -> str:
    if isinstance(block, str):
        return MARKDOWN.render(block)
    if isinstance(block, Table):
        return block.to_html()
    kind = "charts" if block and isinstance(block[0], Chart) else "images"
    return f'<div class="{kind}">{"".join(item.to_html() for item in block)}</div>'


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
         max-width: 84rem; margin: 0 auto; padding: 1rem; }
  h1 { font-size: 1.6rem; line-height: 1.2; }
  h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
  p, li { max-width: 48rem; }
  nav ul { padding-left: 1.2rem; columns: 16rem; }
  .wide { overflow-x: auto; margin: 1rem 0; }
  table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .5rem; border-bottom: 1px solid #e2e2e2; text-align: left; }
  th { background: #f4f4f4; }
  td { white-space: nowrap; }
  .charts { display: grid; gap: 1.5rem 2rem; margin: 1rem 0; align-items: start;
            grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
  .images { display: grid; gap: 1rem; margin: 1rem 0;
            grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
  figure { margin: 0; min-width: 0; }
  figure img { width: 100%; height: auto; display: block; }
  figcaption { font-size: .85rem; overflow-wrap: anywhere; }
  .charts figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .25rem; }
  code { background: #f4f4f4; padding: 0 .2em; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title</h1>
<nav><ul>$contents</ul></nav>
$body
</body>
</html>
""")


def with_table(text: str, name: str, table: pd.DataFrame) -> str:
    """A Markdown text with the table between its comments `name` and `end of name` replaced.

    Raises:
        CxrError: the text lacks one of the comments.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise CxrError(f"the page has no {start} ... {end} around its table; put them back")
    markdown = table.to_markdown(index=False, disable_numparse=True)
    return f"{before}{start}\n\n{markdown}\n\n{end}{after}"
