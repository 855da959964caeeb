"""Both forms have text and tables; only the page has charts and images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import ChoiceLoader, DictLoader, UndefinedError

from cxr.reporting.document import MARKDOWN, Document, code, html_page, markdown_table
from cxr.reporting.templates import ENVIRONMENT
from tests.support.pages import Page

TEMPLATE = """# All & {{ more }}

## First one

{% if True %}
Some `code`.
{% endif %}

{{ table | table }}

## Second

{{ figures(chart) }}

{{ figures(picture) }}

{{ figures() }}
"""
CHART = ("A <chart>", '<svg xmlns="http://www.w3.org/2000/svg"/>', 'called "so"')
PICTURE = ("a & b.png", np.full((8, 8), 90, np.uint8), "Radiograph: a & b.png")
TABLE = pd.DataFrame({"name": ["x|y", "<b>"], "fraction": ["0.50", "**1.00**"]})
INPUTS = {"more": "<more>", "table": TABLE, "chart": CHART, "picture": PICTURE}
DOCUMENT = Document("test.md.j2", INPUTS)


@pytest.fixture(autouse=True)
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add DOCUMENT's template to those of the package."""
    loader = ChoiceLoader([DictLoader({"test.md.j2": TEMPLATE}), ENVIRONMENT.loader])
    monkeypatch.setattr(ENVIRONMENT, "loader", loader)


def test_markdown_has_only_text_and_tables() -> None:
    text = DOCUMENT.to_markdown()
    assert text.startswith("# All & <more>\n\n## First one\n\nSome `code`.\n\n| name")
    assert "x\\|y" in text
    assert "## Second" in text
    for absent in ("svg", "data:", "a & b.png", "chart", "figures", "\n\n\n"):
        assert absent not in text


def test_page_has_everything_and_loads_nothing() -> None:
    page = Page(DOCUMENT.to_html())
    charts, picture = page.all("img")
    assert charts["src"].startswith("data:image/svg+xml;base64,")
    assert charts["alt"] == 'called "so"'
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
    assert "<b>" in page.text and "All & <more>" in page.text
    assert not page.all("b") and not page.all("more") and not page.all("chart")


@pytest.mark.parametrize("name", ["a_b_c.png", "a`b.png", "`a``b`", "a*b*c|d.png"])
def test_code_is_shown_literally(name: str) -> None:
    page = Page(MARKDOWN.render(code(name)))
    assert page.text.strip() == name
    assert [tag for tag, _ in page.tags] == ["p", "code"]


def test_contents_link_to_the_sections() -> None:
    page = Page(DOCUMENT.to_html())
    targets = [link["href"] for link in page.all("a")]
    assert targets == ["#first-one", "#second"]
    assert [f"#{heading['id']}" for heading in page.all("h2")] == targets


def test_a_name_without_a_value_is_an_error() -> None:
    lacking = Document("test.md.j2", {name: INPUTS[name] for name in ("table", "chart", "picture")})
    with pytest.raises(UndefinedError, match="'more' is undefined"):
        lacking.to_markdown()


def test_numbers_of_a_table_are_rounded_and_a_named_index_is_shown() -> None:
    frame = pd.DataFrame({"auc": [0.12345, 1.0], "n": [3, 4]}, index=["a", "b"])
    text = Document("test.md.j2", INPUTS | {"table": frame.rename_axis("split")}).to_markdown()
    rows = [line.replace(" ", "") for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "|split|auc|n|" and rows[2:] == ["|a|0.123|3|", "|b|1.000|4|"]


def test_a_served_page_has_no_inline_style() -> None:
    page = Page(html_page(f"# Card\n\n{markdown_table(TABLE)}\n", served=True))
    assert not page.all("style") and not any("style" in attributes for _, attributes in page.tags)
    assert [link["href"] for link in page.all("link")] == ["page/icon.svg", "page/style.css"]
    with pytest.raises(ValueError, match="does not start with a title"):
        html_page("no title")


def test_a_code_block_of_the_text_is_not_a_figure() -> None:
    page = Page(html_page("# Card\n\n```figures\n0\n```\n"))
    assert not page.all("figure") and page.all("code")


def test_both_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    markdown, page = tmp_path / "reports/report.md", tmp_path / "reports/index.html"
    DOCUMENT.write(markdown, page)
    assert markdown.read_text() == DOCUMENT.to_markdown()
    assert page.read_text() == DOCUMENT.to_html()
    assert len(list(markdown.parent.iterdir())) == 2
