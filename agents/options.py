"""Options that several commands share, and how they become a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from taskrl.config import ExperimentConfig, load_config

Out = Annotated[Path, typer.Option(help="New folder for everything the run writes.")]
Data = Annotated[
    str | None, typer.Option(help="Name, folder of images (with a slash), or .npz.", show_default="cluttered-digits")
]
ConfigFile = Annotated[Path | None, typer.Option(help="YAML file; see configs/.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key, e.g. agent.prior_strength=2.0.")]
AgentName = Annotated[
    str | None, typer.Option(help="thompson, ppo, a2c, maskable-ppo, recurrent-ppo, dqn, sac or tqc.")
]
Episodes = Annotated[int | None, typer.Option(help="Search episodes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything.")]
EvalSeeds = Annotated[int | None, typer.Option(help="Final encoders for each generator (paired seeds).")]
Workers = Annotated[int | None, typer.Option(help="Processes or Ray actors; results do not depend on it.")]
Envs = Annotated[str | None, typer.Option(help="auto, processes, batched (one device) or ray (many machines).")]
Final = Annotated[bool, typer.Option("--final", help="Score on the test images; every read is logged.")]
Objectives = Annotated[str | None, typer.Option(help="Comma-separated; the first is the reference's.")]
Forbid = Annotated[
    list[str] | None, typer.Option(help="A view that is wrong for these images, e.g. mirror; repeatable.")
]
Limit = Annotated[list[str] | None, typer.Option(help="A bound on a strength, e.g. rotation<=0.2; repeatable.")]
Encoder = Annotated[str | None, typer.Option(help="small, resnet18 or another torchvision model.")]
Init = Annotated[
    Path | None,
    typer.Option(help="Go on from this encoder: a folder that taskrl wrote, or weights (name their --encoder)."),
]
ImageSize = Annotated[int | None, typer.Option(help="Pixels a side.")]
Groups = Annotated[
    str | None, typer.Option(help="npz column, or regular expression on file names, of groups to keep whole.")
]
NoLabels = Annotated[bool, typer.Option("--no-labels", help="Ignore labels, also for the reward.")]
LabelsPerClass = Annotated[int | None, typer.Option(help="Labels a class that the reward may read.")]
Probe = Annotated[
    str | None,
    typer.Option(help="auto, ridge (labels), few (few labels and the panel), panel or solvability (no labels)."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Mode = Annotated[
    str | None,
    typer.Option(help="search, online (the policy learns within each final run), or apply (--policy, no search)."),
]
Policy = Annotated[str | None, typer.Option(help="With --mode apply: a run, a policy folder or a schedule.yaml.")]
Stop = Annotated[
    str | None, typer.Option(help="never, or auto: end when quality rises no more and keep the best encoder.")
]
Goal = Annotated[str | None, typer.Option(help="What the encoder is for: frozen, finetune or dense.")]
DataRoot = Annotated[Path | None, typer.Option(help="Where known data sets lie.")]
Download = Annotated[bool, typer.Option("--download", help="Allow downloading a known data set.")]
Methods = Annotated[
    list[str] | None,
    typer.Option(help="Comma-separated (docs/compare.md); default: all. reference and the floors are always there."),
]
TimeBudget = Annotated[
    str | None, typer.Option("--budget", help="Refuse to start when the forecast is longer: minutes, or e.g. 2h.")
]
Cells = Annotated[Path | None, typer.Option(help="Folder of finished cells, to share between comparisons.")]
CompareOut = Annotated[Path, typer.Option(help="Folder of the comparison; given again, it goes on.")]
TrackingUri = Annotated[str | None, typer.Option(help='MLflow tracking URI; "none" turns MLflow off.')]

KEYS = {
    "data": "data.source",
    "agent": "agent.name",
    "episodes": "agent.episodes",
    "seed": "seed",
    "mode": "mode",
    "policy": "policy",
    "eval_seeds": "final.seeds",
    "workers": "workers",
    "envs": "envs",
    "final": "final.test",
    "objectives": "tasks.objectives",
    "forbid": "tasks.forbid",
    "limit": "tasks.limit",
    "encoder": "predictor.encoder",
    "init": "predictor.init",
    "image_size": "data.image_size",
    "groups": "data.groups",
    "labels_per_class": "reward.labels_per_class",
    "probe": "reward.probe",
    "goal": "reward.goal",
    "stop": "final.stop",
    "device": "predictor.device",
    "data_root": "data.root",
    "download": "data.download",
    "tracking_uri": "tracking.uri",
    "methods": "compare.methods",
}


def pieces(given: Sequence[str]) -> list[str]:
    """What stands between the commas of each text, without blanks."""
    return [piece.strip() for text in given for piece in text.split(",") if piece.strip()]


def build_config(options: dict[str, Any]) -> ExperimentConfig:
    """Defaults, then --config, then --set, then the options that were given."""
    given: dict[str, Any] = {}
    for option, key in KEYS.items():
        value = options.get(option)
        if value is None or value is False:
            continue
        if option == "objectives":
            value = pieces([value])
        given[key] = str(value) if isinstance(value, Path) else value
    if options.get("init") and options.get("config") and not _is_set(options, "predictor.init_sha256"):
        begun_from = load_config(options["config"]).predictor.init
        if begun_from not in ("", given["predictor.init"]):
            given["predictor.init_sha256"] = ""  # the --config of an earlier run names that of another encoder
    if options.get("no_labels"):
        given["data.use_labels"] = False
    return load_config(options.get("config"), options.get("set_"), given)


def _is_set(options: dict[str, Any], key: str) -> bool:
    """Whether --set names the key."""
    return any(text.partition("=")[0].strip() == key for text in options.get("set_") or ())
