"""The page: what each address shows. Only GET, only the runs on the shelf, and nothing is ever written."""

import hashlib
import ipaddress
import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Any

import jinja2
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from agents.options import pieces
from agents.page.beside import MOST_COMPARED, beside_view
from agents.page.look import DONE, Look, Watch
from agents.page.pages import FIGURE, comparison_view, line_of, run_view
from agents.page.shelf import Found, Shelf
from taskrl.report import environment

LOCAL_NAMES = ("127.0.0.1", "localhost")
EVERY_ADDRESS = "0.0.0.0"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# a report is one file with its own style, and comes from a run folder: it may show images and nothing else
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
POLL_S = {"training": 1, "finished": 10, "list": 2}
STATIC = {"page.css": "text/css", "page.js": "text/javascript"}


class Runs:
    """The shelf, with what was read of each run."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._watches: dict[int, tuple[threading.Lock, Watch]] = {}
        self._lock = threading.Lock()

    def look(self, found: Found, *, whole: bool = True) -> Look:
        """As `Watch.look`; requests for the same run wait for one another."""
        with self._lock:
            lock, watch = self._watches.setdefault(found.number, (threading.Lock(), Watch(found)))
        with lock:
            return watch.look(whole=whole)

    def numbered(self, number: int) -> Found:
        """Raises HTTPException (404) where there is no such run."""
        found = self.shelf.numbered(number)
        if found is None:
            raise HTTPException(404, f"There is no run {number} on this page; it may have been moved or removed.")
        return found


class _KnownHosts:
    """Refuses requests that call this machine by a name other than `names` (DNS rebinding). With EVERY_ADDRESS among
    them any address will do: a site that points its name here has no address in the name, and a machine behind another
    does not know by which it is called.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app, self._every = app, EVERY_ADDRESS in names
        self._named = TrustedHostMiddleware(app, list(names), www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host", "").split(":")[0] if scope["type"] == "http" else ""
        await (self._app if self._every and is_address(host) else self._named)(scope, receive, send)


def is_address(host: str) -> bool:
    """Whether this is an IPv4 address and no name."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def page_app(shelf: Shelf, hosts: Sequence[str] = LOCAL_NAMES) -> FastAPI:
    """The application. hosts: names that a request may call this machine by; with EVERY_ADDRESS also any address."""
    app = FastAPI(title="taskrl", docs_url=None, redoc_url=None, openapi_url=None)
    runs = Runs(shelf)
    _add_pages(app, runs)
    _add_files(app, runs)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return _page(request, "error.html.j2", {"sentence": str(error.detail)}, status=error.status_code)

    @app.exception_handler(RequestValidationError)
    def misread(request: Request, error: RequestValidationError) -> Response:
        return _page(request, "error.html.j2", {"sentence": "There is no such page."}, status=404)

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:  # it is also printed where the server runs
        sentence = f"This page could not be made ({type(error).__name__}); the terminal of taskrl ui says why."
        response = _page(request, "error.html.j2", {"sentence": sentence}, status=500)
        response.headers.update(HEADERS)
        return response

    app.add_middleware(_KnownHosts, names=hosts)
    return app


def _add_pages(app: FastAPI, runs: Runs) -> None:
    @app.get("/", response_class=HTMLResponse)
    def listed(request: Request) -> Response:
        looks = [runs.look(found, whole=False) for found in runs.shelf.runs()]
        etag = "-".join(["list", *(f"{look.found.number}:{look.etag}" for look in looks)])
        return _page(
            request,
            "index.html.j2",
            lambda: {"lines": [line_of(look) for look in looks], "places": [str(place) for place in runs.shelf.places]},
            etag=etag,
            poll_s=POLL_S["list"],
        )

    @app.get("/run/{number}", response_class=HTMLResponse)
    def run(request: Request, number: int) -> Response:
        look = runs.look(runs.numbered(number))
        compares = look.compares
        return _page(
            request,
            "comparison.html.j2" if compares else "run.html.j2",
            lambda: comparison_view(look) if compares else run_view(look),
            etag=look.etag,
            poll_s=POLL_S["finished" if look.state == DONE else "training"],
        )

    @app.get("/compare", response_class=HTMLResponse)
    def compare(request: Request, runs_: Annotated[list[str] | None, Query(alias="runs")] = None) -> Response:
        wanted = dict.fromkeys(pieces((runs_ or [])[: MOST_COMPARED + 1]))
        if not all(each.isascii() and each.isdigit() and len(each) < 9 for each in wanted):
            raise HTTPException(404, "Runs are compared by their numbers, as in /compare?runs=1,2.")
        if not 2 <= len(wanted) <= MOST_COMPARED:
            many = "more" if len(wanted) > MOST_COMPARED else len(wanted)
            raise HTTPException(404, f"Tick 2 to {MOST_COMPARED} runs in the list to compare them, not {many}.")
        looks = [runs.look(runs.numbered(int(each)), whole=False) for each in wanted]
        return _page(
            request,
            "compare.html.j2",
            lambda: beside_view(looks),
            etag="-".join(["compare", *(f"{look.found.number}:{look.etag}" for look in looks)]),
            poll_s=POLL_S["finished" if all(look.state == DONE for look in looks) else "training"],
        )


def _add_files(app: FastAPI, runs: Runs) -> None:
    @app.get("/run/{number}/report.html", response_class=FileResponse)
    def report(number: int) -> Response:
        found = runs.numbered(number)
        path = found.file(found.folder.report.name)
        if path is None:
            raise HTTPException(404, "This run has no report yet.")
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/run/{number}/figure.png", response_class=FileResponse)
    def figure(number: int) -> Response:
        path = runs.numbered(number).file(FIGURE)
        if path is None:
            raise HTTPException(404, "This comparison has no figure yet.")
        return FileResponse(path, media_type="image/png")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name == "report.css":
            return Response(_templates().get_template("_style.css.j2").render(), media_type="text/css")
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        content = resources.files("agents.page").joinpath("static", name).read_bytes()
        return Response(content, media_type=STATIC[name])


@cache
def _templates() -> jinja2.Environment:
    """The page's templates, which include those of the report."""
    shared = environment()
    assert shared.loader is not None
    return shared.overlay(loader=jinja2.ChoiceLoader([jinja2.PackageLoader("agents.page"), shared.loader]))


def _page(
    request: Request,
    template: str,
    view: dict[str, Any] | Callable[[], dict[str, Any]],
    *,
    etag: str = "",
    poll_s: int = 0,
    status: int = 200,
) -> Response:
    """The page, or 304 where the browser has it already: `view` is only asked for when it is needed."""
    tag = f'"{hashlib.sha256(etag.encode()).hexdigest()[:20]}"'
    if etag and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    content = view() if callable(view) else view
    text = _templates().get_template(template).render(content, poll_s=poll_s, etag=tag if etag else "")
    headers = {"ETag": tag} if etag else {}
    return HTMLResponse(text.encode("utf-8", "replace"), status_code=status, headers=headers)
