"""Text and tables in both forms; charts and pictures in the page alone."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr.document import MARKDOWN, Chart, Document, Radiograph, Section, Table, code

CHART = Chart("A <chart>", '<svg xmlns="http://www.w3.org/2000/svg"/>', 'told "so"')
PICTURE = Radiograph(np.full((8, 8), 90, np.uint8), "a & b.png")
TABLE = Table(pd.DataFrame({"name": ["x|y", "<b>"], "share": ["0.50", "**1.00**"]}))
DOCUMENT = Document(
    "All & more",
    [Section("First one", ["Some `code`.", TABLE]), Section("Second", [[CHART], [PICTURE], []])],
)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_markdown_has_text_and_tables_alone() -> None:
    text = DOCUMENT.to_markdown()
    assert text.startswith("# All & more\n\n## First one\n\nSome `code`.\n\n| name")
    assert "x\\|y" in text
    assert "## Second" in text
    for absent in ("svg", "data:", "a & b.png", "chart"):
        assert absent not in text


def test_page_has_everything_and_asks_for_nothing() -> None:
    page = Page(DOCUMENT.to_html())
    charts, picture = page.all("img")
    assert charts["src"].startswith("data:image/svg+xml;base64,")
    assert charts["alt"] == 'told "so"'
    assert picture["src"].startswith("data:image/jpeg;base64,")
    assert "a & b.png" in page.text
    assert "A <chart>" in page.text
    assert "x|y" in page.text
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object"} == set()
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))


def test_text_from_data_cannot_become_markup() -> None:
    page = Page(DOCUMENT.to_html())
    assert "<b>" in page.text
    assert not page.all("b")


@pytest.mark.parametrize("name", ["a_b_c.png", "a`b.png", "`a``b`", "a*b*c|d.png"])
def test_code_is_shown_letter_by_letter(name: str) -> None:
    page = Page(MARKDOWN.render(code(name)))
    assert page.text.strip() == name
    assert [tag for tag, _ in page.tags] == ["p", "code"]


def test_contents_lead_to_the_sections() -> None:
    page = Page(DOCUMENT.to_html())
    targets = [link["href"] for link in page.all("a")]
    assert targets == ["#first-one", "#second"]
    assert [f"#{section['id']}" for section in page.all("section")] == targets


def test_both_files_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    markdown, page = tmp_path / "reports/report.md", tmp_path / "reports/index.html"
    DOCUMENT.write(markdown, page)
    assert markdown.read_text() == DOCUMENT.to_markdown()
    assert page.read_text() == DOCUMENT.to_html()
    assert len(list(markdown.parent.iterdir())) == 2
