"""The report in a browser: offline, without a word on the console, on a telephone, in the dark and on paper."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskrl.report import render_report
from tests.taskrl.reports import HOSTILE, gallery, hostile, result

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")

PAGES = {
    "whole": (result(), "run"),
    "hostile": (hostile(result()), HOSTILE),
    "endless": (hostile(result(), "na\u00efve_" * 1500), "x" * 10_000),
    "empty": ({}, ""),
}
CONTRAST = """() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const linear = parts.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll('main *')].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return Math.min(...texts.map((element) => {
    const ink = light(getComputedStyle(element).color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for name, (content, run) in PAGES.items():
        html = render_report(content, [gallery(run, run)] if content else [], name=run, test_reads=[run])
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_report_opens_offline_and_fits_a_telephone(name: str, scheme: str, browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme, offline=True)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / f"{name}.html").as_uri())
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and len(asked) <= 2
    assert page.evaluate(CONTRAST) >= 4.5  # WCAG 2, AA
    page.close()


def test_dark_mode_is_dark_and_paper_is_light(browser: Any, folder: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((folder / "whole.html").as_uri())
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 23, 26)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(background) == "rgb(253, 252, 250)"
    assert 1 < page.pdf().count(b"/Type /Page\n") + page.pdf().count(b"/Type /Page ") < 15
    page.close()


def test_pictures_are_drawn(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((folder / "whole.html").as_uri())
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    boxes = page.evaluate("[...document.querySelectorAll('section .tall path.mean')].map((p) => p.getBBox().width)")
    assert len(boxes) >= 5 and all(width > 500 for width in boxes)
    page.close()
