"""Serve the page on this machine until Ctrl-C."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from agents.page.app import LOCAL_NAMES, is_address, page_app
from agents.page.shelf import Shelf
from taskrl.errors import ConfigError

HOST = "127.0.0.1"
GRACE_S = 2


def serve(places: Sequence[Path], *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Show the runs in `places`; `ready` gets the address once it is bound. Returns, or raises KeyboardInterrupt, when
    a signal ends it.

    port: 0 for a free one. Raises RunFolderError for a place that is no folder, ConfigError for an address that cannot
    be had.
    """
    shelf = Shelf(places)
    with bound(host, port) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                page_app(shelf, allowed_names(host)),
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        ready(f"http://{host}:{listener.getsockname()[1]}/")
        server.run(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at that place. Raises ConfigError where it cannot be had."""
    if not is_address(host):
        raise ConfigError(f"--host {host!r} is no IPv4 address; give one of this machine's, such as {HOST}.")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Port {port} on {host} cannot be used ({error.strerror}); give another one with --port, or 0 for any."
        ) from None
    return listener


def is_local(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    with suppress(ValueError):
        return ipaddress.IPv4Address(host).is_loopback
    return False


def allowed_names(host: str) -> list[str]:
    """By which names a request may call this machine; any other site that points its name here is refused."""
    names = [*LOCAL_NAMES, host]
    if not is_local(host):
        names += [socket.gethostname(), socket.getfqdn()]
        with suppress(OSError):
            names += [str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return list(dict.fromkeys(name for name in names if name))
