"""A real browser for the page's tests, with none of its requests let out of this machine."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Watched:
    """A tab, and what went wrong in it: messages on the console, dialogs, errors, requests that would leave."""

    page: Page
    troubles: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")  # not longer: a thread can drive one playwright at a time, and others use it too
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine: install the distribution's package to test the page")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Watched]:
    """A tab that must end without any trouble."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watched = Watched(page)

    def local_only(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            watched.troubles.append(f"request to {route.request.url}")
            route.abort()

    def dismiss(dialog: object) -> None:
        watched.troubles.append(f"dialog {dialog}")
        dialog.dismiss()  # type: ignore[attr-defined]

    page.route("**/*", local_only)
    page.on("dialog", dismiss)
    page.on("console", lambda message: watched.troubles.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: watched.troubles.append(f"error: {error}"))
    yield watched
    page.close()
    assert watched.troubles == []
