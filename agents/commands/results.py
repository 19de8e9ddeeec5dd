"""Commands on what a run left: its results, its encoder, its page; and the installation."""

from pathlib import Path
from typing import Annotated

import typer

from agents.doctor import findings
from taskrl.run_folder import RunFolder


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
    report: Annotated[Path | None, typer.Option(help="Draw the report again, as this new .html file.")] = None,
    why: Annotated[bool, typer.Option("--why", help="Which observed entries each choice hangs on.")] = False,
    what_if: Annotated[
        bool,
        typer.Option("--counterfactuals", help="Train: what other tasks would have gained from the same snapshot."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="With --counterfactuals: episodes; default 5.", min=1, max=1000)
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(help="With --counterfactuals: progress of snapshots, 0 to 1, with commas; default 0,0.5,1."),
    ] = None,
    ahead: Annotated[
        int | None,
        typer.Option(help="With --counterfactuals: decisions from each; default: a quarter of the episode.", min=1),
    ] = None,
    choices: Annotated[
        str | None, typer.Option(help="With --counterfactuals: comma-separated, e.g. crop,mirror; default: all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --counterfactuals: new .json of every gain.")] = None,
) -> None:
    """Show what a run or a comparison found: the table, what the policy chooses and why, and the report."""
    from agents.inspect_policy import inspect_as
    from agents.inspection.counterfactual_page import requested

    options = {"--seeds": seeds, "--at": at, "--ahead": ahead, "--choices": choices, "--out": out}
    inspect_as(
        run,
        schedule=schedule,
        rows=rows,
        library=library,
        as_json=as_json,
        report=report,
        why=why,
        what_if=requested(what_if, options),
    )


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, a comparison's, or an encoder folder.")],
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="folder (or safetensors), onnx, pt2, mlflow, policy; repeatable, or with commas."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New file or folder; a folder of all of them for several formats. Without it: only check."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="best, last or ema; default: the one that counts, encoder/.")
    ] = None,
    policy: Annotated[bool, typer.Option("--policy", help="The same as --format policy.")] = False,
    license_: Annotated[str, typer.Option("--license", help="For the model card, e.g. mit.")] = "unknown",
    register: Annotated[str | None, typer.Option(help="With mlflow: register the model under this name.")] = None,
    alias: Annotated[str | None, typer.Option(help="With --register: an alias for the new version.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="With --register: where; default: the run's own mlflow.db.")
    ] = None,
) -> None:
    """Check the encoder of a run and write it, or its task policy, in formats that others read."""
    from agents import exporting

    formats = exporting.formats_named([*(format_ or []), *(["policy"] if policy else [])])
    request = exporting.Request(
        formats=formats,
        out=out,
        weights=weights,
        license_name=license_,
        register=register,
        alias=alias,
        tracking_uri=tracking_uri,
    )
    for line in exporting.export(run, request):
        typer.echo(line)


def mlflow(
    run: Annotated[Path, typer.Argument(help="A run folder, also one that was moved.")],
    port: Annotated[int, typer.Option(help="Port on localhost.", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's page for a run on localhost; Ctrl-C stops it."""
    from taskrl.mlflow_page import run_url, serve, stop, wait_until_up

    folder = RunFolder.open(run).path
    server = serve(folder, port=port)
    try:
        wait_until_up(server, port)
        typer.echo(f"MLflow's page: {run_url(folder, port)} (Ctrl-C stops it)")
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
