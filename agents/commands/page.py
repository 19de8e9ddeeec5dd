"""The command that shows runs in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PORT = 8642


def ui(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that runs are or will be in.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen at. Others than this machine's own show it to all.")] = (
        "127.0.0.1"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Show runs in a browser, live while they train and side by side; on localhost unless --host says otherwise."""
    from agents.page.server import is_local, serve

    def ready(address: str) -> None:
        if not is_local(host):
            typer.echo(
                f"Warning: everyone who can reach {host} can now read these runs, their images and their settings; "
                "there is no password.",
                err=True,
            )
        typer.echo(f"Page: {address} (Ctrl-C stops it)")
        if open_:
            webbrowser.open(address)

    serve(runs, host=host, port=port, ready=ready)
