"""Commands on what a run left: its results, its encoder, its page; and the installation."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from agents.doctor import findings
from taskrl.errors import RunFolderError
from taskrl.run_folder import RunFolder, refuse_existing


def inspect(
    run: Annotated[Path, typer.Argument(help="A finished run folder, or a comparison's.")],
    schedule: Annotated[
        Path | None, typer.Option(help="Write what was learned to this new .yaml, for pretrain --policy.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Rows of the schedule; default: one a decision, at most 12.", min=1, max=1000)
    ] = None,
    library: Annotated[
        str | None, typer.Option("--as", help="Print code that plays it without taskrl: torchvision or lightly.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Show what a run or a comparison found: the table, what the policy chooses, and the report."""
    from agents.inspect_policy import inspect_as

    inspect_as(run, schedule=schedule, rows=rows, library=library, as_json=as_json)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to copy the encoder; RUN/encoder is only checked without it.")
    ] = None,
) -> None:
    """Check the encoder of a run and copy it to a folder of its own."""
    from taskrl.export import load_exported

    source = RunFolder.open(run).encoder
    load_exported(source)
    target = source
    if out is not None:
        refuse_existing(out)
        try:
            shutil.copytree(source, out)
        except OSError as error:
            raise RunFolderError(
                f"The encoder cannot be copied to {str(out)!r} ({error.strerror}); name another --out."
            ) from None
        load_exported(out)
        target = out
    typer.echo(f"Encoder: {target}\nHow to load it without taskrl: {target / 'README.md'}")


def mlflow(
    run: Annotated[Path, typer.Argument(help="A run folder, also one that was moved.")],
    port: Annotated[int, typer.Option(help="Port on localhost.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's page for a run on localhost; Ctrl-C stops it."""
    from taskrl.mlflow_page import page_url, serve, stop, wait_until_up

    server = serve(RunFolder.open(run).path, port=port)
    try:
        wait_until_up(server, port)
        typer.echo(f"MLflow's page: {page_url(port)} (Ctrl-C stops it)")
        server.wait()
    finally:
        stop(server)


def doctor() -> None:
    """Versions, the torch/torchvision pair, device and disk."""
    facts, problems = findings()
    for fact in facts:
        typer.echo(fact)
    for problem in problems:
        typer.echo(f"Problem: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo("All good.")
