"""The web page in Chromium: with a mouse, by keyboard alone, and in the accessibility tree."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Error, Page, expect

from tests.support.dicom_files import content_of, dataset
from tests.support.serving import export_with_keras, running
from tests.support.tiny import grey

expect.set_options(timeout=30_000)  # TensorFlow's start takes longest

Opened = Callable[..., Page]
NAME = "Mustermann"

COUNT = """
window.urls = 0;
const make = URL.createObjectURL, end = URL.revokeObjectURL;
URL.createObjectURL = (blob) => { window.urls += 1; return make.call(URL, blob); };
URL.revokeObjectURL = (url) => { window.urls -= 1; end.call(URL, url); };
"""
# Number of visible texts, and the lowest contrast with their background (WCAG 2.2).
CONTRAST = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const pair = [light(getComputedStyle(element).color), light(behind(element))];
    found.push((Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
  }
  return [found.length, Math.min(...found)];
}"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_keras(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(exported: Path) -> Iterator[str]:
    with running(exported) as address:
        yield address


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Opened]:
    """Opens the page; finally checks that no other site was requested and no error occurred."""
    pages, wrong = [], []

    def open_page(**options: Any) -> Page:
        page = browser.new_page(**options)
        pages.append(page)
        page.add_init_script(COUNT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("request", lambda request: note(request))
        page.goto(url)
        expect(page.locator("#model")).to_contain_text("Model: bright. It predicts PNEUMONIA")
        expect(page.locator("#model")).to_contain_text("0.400")
        return page

    def note(request: Any) -> None:
        if not request.url.startswith((url, "blob:")):
            wrong.append(request.url)
        if NAME in f"{request.url}{request.headers}" or NAME.encode() in (
            request.post_data_buffer or b""
        ):
            wrong.append("a file's name was sent")

    yield open_page
    for page in pages:
        page.close()
    # Chromium also reports the requests that a test aborts on purpose.
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four radiographs, a damaged file, and four files that are skipped."""
    found = tmp_path / "patients"
    (found / "below").mkdir(parents=True)
    grey(140).save(found / f"{NAME}.png")
    grey(60).save(found / "below/2.JPG", quality=95)
    made = dataset(np.full((40, 40), 120, np.uint8))
    for name in ("IM000010", "DOE.JOHN", "DICOMDIR"):
        (found / "below" / name).write_bytes(content_of(made))
    (found / "below/README").write_text("of patients, " * 20)
    (found / "bad.dcm").write_bytes(b"no image")
    (found / "notes.txt").write_text("of patients")
    grey(1).save(found / ".hidden.png")
    return found


def shown(page: Page) -> dict[str, str]:
    """Text shown for each file."""
    texts = page.locator("#results li").filter(has=page.locator("h3")).all_inner_texts()
    return {name: rest for name, _, rest in (text.partition("\n") for text in texts)}


def done(page: Page, text: str) -> None:
    expect(page.locator("#progress")).to_have_text(text)
    expect(page.get_by_role("status").filter(has_text=text)).to_have_count(1)  # announced


def check_all(page: Page, prefix: str) -> None:
    """Check the predictions of the files in `folder`."""
    done(page, "5 of 5 done: 3 PNEUMONIA, 1 NORMAL, 1 failed. 4 skipped.")
    found = shown(page)
    assert list(found) == [f"{prefix}{name}" for name in NAMES]
    page.get_by_text("Skipped: 4").click()
    assert page.locator("#skipped-names li").all_inner_texts() == [
        f"{prefix}.hidden.png: hidden",
        f"{prefix}below/DICOMDIR: index of a DICOM medium",
        f"{prefix}below/README: not a JPEG, PNG or DICOM file",
        f"{prefix}notes.txt: not a JPEG, PNG or DICOM file",
    ]
    for name, text in NAMES.items():
        for part in text:
            assert part in found[f"{prefix}{name}"]


NAMES = {
    "bad.dcm": ["ERROR", "cannot identify a JPEG, PNG or DICOM image"],
    "below/2.JPG": ["NORMAL", "0.235"],
    "below/DOE.JOHN": ["PNEUMONIA", "0.471"],
    "below/IM000010": ["PNEUMONIA", "0.471"],
    f"{NAME}.png": ["PNEUMONIA", "0.549", "0.400"],
}


def test_choosing_a_folder(opened: Opened, folder: Path) -> None:
    page = opened()
    page.get_by_label("Choose a folder").set_input_files(folder)
    check_all(page, "patients/")


def test_dropping_a_folder(opened: Opened, folder: Path) -> None:
    page = opened()
    drop(page, folder)
    check_all(page, "patients/")


# Each folder returns its first entries and then an error. The class of readers has no global name.
FAILING_READER = """() => {
  const items = DataTransferItem.prototype, entryOf = items.webkitGetAsEntry;
  items.webkitGetAsEntry = function () {
    const entry = entryOf.call(this);
    const readers = Object.getPrototypeOf(entry.createReader()), read = readers.readEntries;
    readers.readEntries = function (done, failed) {
      if (this.used) failed(new Error("gone")); else read.call(this, done, failed);
      this.used = true;
    };
    return entry;
  };
}"""


def test_an_unreadable_folder_is_reported_with_the_files_read_before(
    opened: Opened, folder: Path
) -> None:
    page = opened()
    page.evaluate(FAILING_READER)
    drop(page, folder)
    done(page, "7 of 7 done: 3 PNEUMONIA, 1 NORMAL, 3 failed. 4 skipped.")
    found = shown(page)
    assert {f"patients/{name}" for name in NAMES} < set(found)
    for name in ("patients", "patients/below"):
        assert "cannot be read" in found[name]


def test_dropping_files_with_any_suffix(opened: Opened, folder: Path) -> None:
    page = opened()
    drop(page, folder / "notes.txt", folder / f"{NAME}.png")
    done(page, "2 of 2 done: 1 PNEUMONIA, 0 NORMAL, 1 failed.")
    assert "cannot identify" in shown(page)["notes.txt"]


def drop(page: Page, *paths: Path) -> None:
    """Drop files outside the frame, which the page accepts as well."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 9, "y": 9, "data": data})


def test_a_prediction_has_a_bar_and_warnings(opened: Opened, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (128, 60, 200)).save(tmp_path / "one.png")  # luminance 96
    page = opened()
    page.get_by_label("Choose files").set_input_files(tmp_path / "one.png")
    expect(page.get_by_role("list", name="Warnings")).to_contain_text("Warning: contains colors")
    bar, value, mark = (
        page.locator(f".{name}").bounding_box() for name in ("bar", "value", "mark")
    )
    assert value["width"] / bar["width"] == pytest.approx(96 / 255, abs=0.01)
    assert (mark["x"] - bar["x"]) / bar["width"] == pytest.approx(0.4, abs=0.01)


def test_keyboard_only(opened: Opened, folder: Path) -> None:
    page = opened()
    with page.expect_file_chooser() as chooser:
        press(page, "Tab", "Choose files")
        assert outlined(page)
        page.keyboard.press("Enter")
    chooser.value.set_files([folder / f"{NAME}.png", folder / "below/IM000010"])
    done(page, "2 of 2 done: 2 PNEUMONIA, 0 NORMAL, 0 failed.")
    for name in ("Choose a folder", "Clear", "Heatmap, IM000010", f"Heatmap, {NAME}.png"):
        press(page, "Tab", name)
        assert outlined(page)
    page.keyboard.press("Enter")
    check_pictures(page, f"{NAME}.png")
    page.keyboard.press("Space")
    expect(page.locator("figure").first).to_be_hidden()
    page.keyboard.press("Shift+Tab")
    press(page, "Shift+Tab", "Clear")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Choose files")).to_be_focused()
    expect(page.locator("#results li")).to_have_count(0)
    press(page, "Tab", "Choose a folder")
    press(page, "Tab", "Model card")
    page.keyboard.press("Enter")
    check_card(page)


def press(page: Page, key: str, name: str) -> None:
    """Press a key and check that an element of this name then has the focus."""
    page.keyboard.press(key)
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    assert [node["name"]["value"] for node in nodes if has(node, "focused")][-1] == name


def has(node: dict[str, Any], name: str) -> bool:
    found = (one["value"].get("value") for one in node.get("properties", []) if one["name"] == name)
    return any(found)


def outlined(page: Page) -> bool:
    """Whether the focused element has a visible outline."""
    # For a hidden input, its label has the outline.
    seen = page.locator("label:focus-within, :focus-visible").first
    style = "(element) => { const { outlineStyle, outlineWidth } = getComputedStyle(element);"
    style += " return outlineStyle === 'solid' && parseFloat(outlineWidth) >= 2; }"
    return seen.evaluate(style)


def check_pictures(page: Page, name: str) -> None:
    expect(page.get_by_role("img", name=f"Network input of {name}")).to_be_visible()
    expect(page.get_by_role("img", name=f"Grad-CAM heatmap of {name}")).to_be_visible()
    sizes = page.locator("figure img").evaluate_all("(all) => all.map((one) => one.naturalWidth)")
    assert sizes == [32, 32]
    assert page.evaluate("window.urls") == 0  # all revoked


def check_card(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Model card: bright")
    expect(page.get_by_role("cell", name="<b>0.9</b>")).to_be_visible()
    page.get_by_role("link", name="Predict radiographs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pneumonia on chest radiographs")


@pytest.mark.slow
def test_base_path(browser: Browser, exported: Path, folder: Path) -> None:
    with running(exported, base="/tools/cxr") as address:
        page = browser.new_page()
        page.goto(f"{address}/")
        page.get_by_label("Choose files").set_input_files(folder / f"{NAME}.png")
        done(page, "1 of 1 done: 1 PNEUMONIA, 0 NORMAL, 0 failed.")
        page.get_by_role("link", name="Model card").click()
        check_card(page)
        assert page.url == f"{address}/"
        page.close()


def test_a_server_that_does_not_respond_is_reported(opened: Opened, folder: Path) -> None:
    page = opened()
    page.route("**/api/predict", lambda route: route.abort())
    page.get_by_label("Choose files").set_input_files(folder / f"{NAME}.png")
    done(page, "1 of 1 done: 0 PNEUMONIA, 0 NORMAL, 1 failed.")
    assert "the server does not respond" in shown(page)[f"{NAME}.png"]


def test_requests_to_a_busy_server_are_retried(opened: Opened, folder: Path) -> None:
    page = opened()
    busy = {"status": 503, "headers": {"Retry-After": "0.01"}, "json": {"detail": "busy"}}
    page.route("**/api/predict", lambda route: route.fulfill(**busy), times=3)
    page.get_by_label("Choose files").set_input_files(folder / f"{NAME}.png")
    done(page, "1 of 1 done: 1 PNEUMONIA, 0 NORMAL, 0 failed.")


def test_clearing_cancels_waiting_requests(opened: Opened, folder: Path) -> None:
    page = opened()
    held = []
    page.route("**/api/predict", lambda route: held.append(route))
    page.get_by_label("Choose a folder").set_input_files(folder)
    expect(page.locator("#progress")).to_contain_text("0 of 5 done")
    page.wait_for_timeout(200)
    assert len(held) == 2
    page.get_by_role("button", name="Clear").click()
    for route in held[:]:
        with suppress(Error):  # Chromium may have dropped it already
            route.abort()
    page.wait_for_timeout(200)
    assert len(held) == 2
    page.unroute("**/api/predict")
    page.get_by_label("Choose files").set_input_files(folder / f"{NAME}.png")
    done(page, "1 of 1 done: 1 PNEUMONIA, 0 NORMAL, 0 failed.")
    assert list(shown(page)) == [f"{NAME}.png"]


def test_a_folder_without_radiographs_is_reported(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/notes.txt").write_text("no image")
    page = opened()
    page.get_by_label("Choose a folder").set_input_files(tmp_path / "none")
    done(page, "No JPEG, PNG or DICOM file was found. 1 skipped.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_legibility(opened: Opened, folder: Path, width: int, scheme: str) -> None:
    (folder / f"{'a long name ' * 9}{'x' * 80}.png").write_bytes(b"")
    Image.new("RGB", (40, 40), (128, 60, 200)).save(folder / "colors.png")
    page = opened(viewport={"width": width, "height": 740}, color_scheme=scheme)
    expect(page.get_by_text("Not for clinical use.")).to_be_in_viewport()
    page.get_by_label("Choose a folder").set_input_files(folder)
    expect(page.locator("#progress")).to_contain_text("7 of 7 done")
    page.get_by_role("button", name="Heatmap").first.click()
    expect(page.locator("figure img")).to_have_count(2)
    network_input, overlay = (box.bounding_box() for box in page.locator("figure img").all())
    assert network_input["y"] == overlay["y"]  # side by side
    assert network_input["x"] + network_input["width"] <= overlay["x"]
    check_legible(page, width)
    page.get_by_role("link", name="Model card").click()
    page.wait_for_url("**/card")  # with its style
    check_legible(page, width)


def check_legible(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts, contrast = page.evaluate(CONTRAST)
    assert texts >= 6
    assert contrast >= 4.5
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    reached = [node for node in nodes if has(node, "focusable")]
    assert len(reached) >= 2
    assert all(node["name"]["value"] for node in reached)
