"""Commands on an encoder that is there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from agents.options import (
    DataRoot,
    Device,
    Download,
    Final,
    Goal,
    Groups,
    NoLabels,
    Seed,
    Set,
    build_config,
)
from agents.progress import Reporter
from taskrl.config import ExperimentConfig, load_config
from taskrl.errors import ConfigError

AnyEncoder = Annotated[
    Path, typer.Argument(help="An encoder folder, a run folder that has one, or a file of weights (with --arch).")
]
Data = Annotated[
    str | None,
    typer.Option(help="Name, folder of images (with a slash), or .npz.", show_default="what the run was trained on"),
]
Arch = Annotated[str | None, typer.Option(help="For .safetensors, .pth or .pt: the torchvision model, e.g. resnet18.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
OwnSize = Annotated[int | None, typer.Option(help="Pixels a side.", show_default="as the encoder was trained")]
NewFolder = Annotated[Path, typer.Option(help="New folder for the encoder and its result.json.")]
Views = Annotated[str, typer.Option(help="Views that images are trained on: KNOB=STRENGTH,... or none.")]


def probe(
    encoder: AnyEncoder,
    data: Data = None,
    arch: Arch = None,
    few_shot: Annotated[
        str | None, typer.Option(help="Also with so many labels a class, comma-separated, e.g. 1,5,10,100.")
    ] = None,
    final: Final = False,
    image_size: OwnSize = None,
    groups: Groups = None,
    device: Device = None,
    json: Json = False,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Linear and kNN accuracy of an encoder's frozen features."""
    from agents.probing import parse_few, probe_encoder, probe_json

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    config, few = _config(encoder, options), parse_few(few_shot)
    if json:
        typer.echo(probe_json(encoder, arch, config, few))
    else:
        probe_encoder(encoder, arch, config, Reporter(), few)


def embed(
    encoder: AnyEncoder,
    out: Annotated[Path, typer.Option(help="New file of features: .parquet, .npz or .csv.")],
    data: Data = None,
    arch: Arch = None,
    image_size: OwnSize = None,
    batch_size: Annotated[int | None, typer.Option(help="Images that are encoded together.", min=1)] = None,
    device: Device = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Write the features of every image; stopped, the same command goes on."""
    from agents.embedding import embed as embed_images

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    embed_images(encoder, arch, _config(encoder, options), out, Reporter(), batch_size=batch_size)


def quality(
    encoder: AnyEncoder,
    data: Data = None,
    arch: Arch = None,
    goal: Goal = None,
    image_size: OwnSize = None,
    groups: Groups = None,
    json: Json = False,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Measure an encoder without labels, beside an untrained one of the same architecture."""
    from agents.quality import print_quality, quality_json

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    config = _config(encoder, options)
    if json:
        typer.echo(quality_json(encoder, arch, config))
    else:
        print_quality(encoder, arch, config, Reporter())


def finetune(
    encoder: AnyEncoder,
    out: NewFolder,
    data: Data = None,
    arch: Arch = None,
    how: Annotated[
        str, typer.Option(help="full, last-K (the last K modules) or linear-then-full (from the linear probe on).")
    ] = "linear-then-full",
    labels_per_class: Annotated[
        int | None, typer.Option(help="Labelled images of each class that are used; all without it.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps at each learning rate.")] = 200,
    seeds: Annotated[int, typer.Option(help="Paired seeds.")] = 5,
    views: Views = "crop=0.6,jitter=0.4",
    seed: Seed = None,
    final: Final = False,
    image_size: OwnSize = None,
    groups: Groups = None,
    device: Device = None,
    set_: Set = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Fine-tune an encoder on labels, beside training from scratch and the frozen linear probe."""
    from agents.finetuning import FinetuneOptions
    from agents.finetuning import finetune as run_finetuning

    own = ("encoder", "arch", "out", "how", "labels_per_class", "steps", "seeds", "views")
    config = _config(encoder, {name: value for name, value in locals().items() if name not in own})
    options = FinetuneOptions(how=how, labels_per_class=labels_per_class, steps=steps, seeds=seeds, views=views)
    run_finetuning(encoder, arch, config, options, out, Reporter())


def distill(
    teacher: AnyEncoder,
    student: Annotated[str, typer.Option(help="small:WIDTH, or the name of an encoder, e.g. resnet18.")],
    out: NewFolder,
    data: Data = None,
    arch: Arch = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    seeds: Annotated[int, typer.Option(help="Students, each from its own start.")] = 1,
    views: Views = "none",
    learning_rate: Annotated[float, typer.Option(help="The largest of the schedule.")] = 1e-2,
    seed: Seed = None,
    final: Final = False,
    image_size: OwnSize = None,
    groups: Groups = None,
    no_labels: NoLabels = False,
    device: Device = None,
    set_: Set = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Distil an encoder into a smaller one on images without labels."""
    from agents.distilling import DistillOptions
    from agents.distilling import distill as run_distillation

    own = ("teacher", "student", "arch", "out", "steps", "seeds", "views", "learning_rate")
    config = _config(teacher, {name: value for name, value in locals().items() if name not in own})
    options = DistillOptions(student=student, steps=steps, seeds=seeds, views=views, learning_rate=learning_rate)
    run_distillation(teacher, arch, config, options, out, Reporter())


_OF_DATA = ("data", "final", "goal", "image_size", "groups", "device", "data_root", "download")
_AS_THE_RUN = ("source", "root", "image_size", "groups", "split_seed")


def _config(encoder: Path, options: dict[str, Any]) -> ExperimentConfig:
    """What `options` say; where they name no images, those of the run at `encoder`, split as the run split them.

    Raises ConfigError where nothing names images.
    """
    config = build_config(options)
    given = config.data.model_fields_set
    if "source" in given:
        return config
    file = encoder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"No images are named, and {str(encoder)!r} is no run that would name them; give --data.")
    run = load_config(file).data
    same = {name: getattr(run, name) for name in _AS_THE_RUN if name not in given}
    return config.model_copy(update={"data": config.data.model_copy(update=same)})
