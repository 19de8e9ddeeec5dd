"""Commands that train: searches, final encoders, comparisons."""

from pathlib import Path
from typing import Annotated

import typer

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
    Init,
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
    init: Init = None,
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


def pretrain(
    out: Out,
    policy: Annotated[
        str,
        typer.Option(
            help="A run or policy folder, a schedule.yaml, or reference, online, profile, hard-views, random, "
            "fixed:RECIPE."
        ),
    ] = "profile",
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
    init: Init = None,
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
    init: Init = None,
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


def resume(run: Annotated[Path, typer.Argument(help="The folder of an interrupted run.")]) -> None:
    """Go on with an interrupted run, from its last finished episodes."""
    from agents.compare.folder import refuse_comparison
    from agents.training import resume as resume_training

    refuse_comparison(run)
    resume_training(run, Reporter())
