"""The console script `taskrl`."""

import errno
import functools
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from agents.doctor import findings, pair_problem
from agents.options import (
    AgentName,
    Cells,
    CompareOut,
    ConfigFile,
    Data,
    DataRoot,
    Device,
    Download,
    Encoder,
    Envs,
    Episodes,
    EvalSeeds,
    Final,
    Forbid,
    Goal,
    Groups,
    ImageSize,
    LabelsPerClass,
    Limit,
    Methods,
    Mode,
    NoLabels,
    Objectives,
    Out,
    Policy,
    Probe,
    Seed,
    Set,
    Stop,
    TimeBudget,
    TrackingUri,
    Workers,
    build_config,
)
from agents.progress import Reporter
from taskrl.errors import RunFolderError, TaskrlError
from taskrl.machine import versions
from taskrl.run_folder import RunFolder, refuse_existing

app = typer.Typer(
    help="Learn which self-supervised pretext task an encoder should train on next.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
F = TypeVar("F", bound=Callable[..., Any])
# what the machine refuses, wherever it happens: no room, no right to write
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 130, 143


def friendly(command: F) -> F:
    """User errors become one sentence and exit code 2; Ctrl-C exits with 130, SIGTERM with 143."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        terminated = False

        def on_sigterm(number: int, frame: Any) -> None:
            nonlocal terminated
            terminated = True
            raise KeyboardInterrupt

        previous = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            return command(*args, **kwargs)
        except TaskrlError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            where = f" ({error.filename})" if error.filename else ""
            typer.echo(
                f"Error: {error.strerror}{where}; make room or mend the rights there. What is finished is kept.",
                err=True,
            )
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED) from None
        finally:
            signal.signal(signal.SIGTERM, previous)

    return wrapped  # type: ignore[return-value]


@app.command()
@friendly
def train(
    out: Out,
    data: Data = None,
    config: ConfigFile = None,
    set_: Set = None,
    agent: AgentName = None,
    episodes: Episodes = None,
    seed: Seed = None,
    eval_seeds: EvalSeeds = None,
    workers: Workers = None,
    envs: Envs = None,
    final: Final = False,
    objectives: Objectives = None,
    forbid: Forbid = None,
    limit: Limit = None,
    encoder: Encoder = None,
    image_size: ImageSize = None,
    groups: Groups = None,
    no_labels: NoLabels = False,
    labels_per_class: LabelsPerClass = None,
    probe: Probe = None,
    goal: Goal = None,
    device: Device = None,
    data_root: DataRoot = None,
    download: Download = False,
    tracking_uri: TrackingUri = None,
    mode: Mode = None,
    policy: Policy = None,
) -> None:
    """Learn a task policy, then compare encoders trained by it with the yardsticks on paired seeds."""
    from agents.training import train as run_training

    run_training(build_config(dict(locals())), out, Reporter())


@app.command()
@friendly
def pretrain(
    out: Out,
    policy: Annotated[
        str,
        typer.Option(
            help="A run folder, a schedule.yaml, or reference, online, profile, hard-views, random, fixed:RECIPE."
        ),
    ],
    data: Data = None,
    config: ConfigFile = None,
    set_: Set = None,
    seed: Seed = None,
    stop: Stop = None,
    final: Final = False,
    objectives: Objectives = None,
    forbid: Forbid = None,
    limit: Limit = None,
    encoder: Encoder = None,
    image_size: ImageSize = None,
    groups: Groups = None,
    no_labels: NoLabels = False,
    labels_per_class: LabelsPerClass = None,
    probe: Probe = None,
    goal: Goal = None,
    device: Device = None,
    data_root: DataRoot = None,
    download: Download = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Train one encoder under a fixed recipe or a learned policy; no reinforcement learning."""
    from agents.pretraining import pretrain as run_pretraining

    options = {name: value for name, value in locals().items() if name != "policy"}
    run_pretraining(build_config(options), policy, out, Reporter())


@app.command()
@friendly
def compare(
    out: CompareOut,
    data: Data = None,
    methods: Methods = None,
    budget: TimeBudget = None,
    cells: Cells = None,
    config: ConfigFile = None,
    set_: Set = None,
    agent: AgentName = None,
    episodes: Episodes = None,
    seed: Seed = None,
    workers: Workers = None,
    envs: Envs = None,
    final: Final = False,
    objectives: Objectives = None,
    forbid: Forbid = None,
    limit: Limit = None,
    encoder: Encoder = None,
    image_size: ImageSize = None,
    groups: Groups = None,
    no_labels: NoLabels = False,
    labels_per_class: LabelsPerClass = None,
    probe: Probe = None,
    goal: Goal = None,
    device: Device = None,
    data_root: DataRoot = None,
    download: Download = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Learners, plain searches and fixed recipes on the same paired seeds, with what each of them cost."""
    from agents.compare.comparison import compare as run_comparison
    from agents.compare.methods import split_names

    options = dict(locals())
    options["methods"] = None if methods is None else split_names(methods)
    run_comparison(build_config(options), out, Reporter(), budget=budget, cells=cells)


@app.command()
@friendly
def resume(run: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")]) -> None:
    """Go on with an interrupted run, from its last finished episodes."""
    from agents.compare.folder import refuse_comparison
    from agents.training import resume as resume_training

    refuse_comparison(run)
    resume_training(run, Reporter())


@app.command()
@friendly
def probe(
    encoder: Annotated[Path, typer.Argument(help="An encoder folder, or a run folder that has one.")],
    data: Data = None,
    final: Final = False,
    image_size: ImageSize = None,
    groups: Groups = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Linear and kNN accuracy of an exported encoder's frozen features."""
    from agents.probing import probe_encoder

    options = {name: value for name, value in locals().items() if name != "encoder"}
    probe_encoder(encoder, build_config(options), Reporter())


@app.command()
@friendly
def quality(
    encoder: Annotated[
        Path, typer.Argument(help="An encoder folder, a run folder that has one, or a file of weights (with --arch).")
    ],
    data: Data = None,
    arch: Annotated[
        str | None, typer.Option(help="For .safetensors, .pth or .pt: the torchvision model, e.g. resnet18.")
    ] = None,
    goal: Goal = None,
    image_size: ImageSize = None,
    groups: Groups = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Measure an encoder without labels, beside an untrained one of the same architecture."""
    from agents.quality import print_quality, quality_json

    options = {name: value for name, value in locals().items() if name not in ("encoder", "arch", "json")}
    config = build_config(options)
    if json:
        typer.echo(quality_json(encoder, arch, config))
    else:
        print_quality(encoder, arch, config, Reporter())


@app.command()
@friendly
def inspect(run: Annotated[Path, typer.Argument(help="A finished run folder, or a comparison's.")]) -> None:
    """Show what a run or a comparison found: the table, what the policy chooses, and the report."""
    from agents.compare.folder import is_comparison
    from agents.compare.outcome import inspect_comparison
    from agents.inspect_policy import inspect_run

    show = inspect_comparison if is_comparison(run) else inspect_run
    show(run, Reporter())


@app.command()
@friendly
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


@app.command()
@friendly
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


@app.command()
@friendly
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


def main() -> None:
    """Entry point: checks the torch/torchvision pair first, since a wrong pair fails in strange ways later."""
    found = versions()
    problem = pair_problem(found["torch"], found["torchvision"])
    if problem and "doctor" not in sys.argv:
        typer.echo(f"Warning: {problem}", err=True)
    app()


if __name__ == "__main__":
    main()
