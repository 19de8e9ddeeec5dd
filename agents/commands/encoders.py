"""Commands on an encoder that is there."""

from pathlib import Path
from typing import Annotated

import typer

from agents.options import (
    Data,
    DataRoot,
    Device,
    Download,
    Final,
    Goal,
    Groups,
    ImageSize,
    build_config,
)
from agents.progress import Reporter

AnyEncoder = Annotated[
    Path, typer.Argument(help="An encoder folder, a run folder that has one, or a file of weights (with --arch).")
]
Arch = Annotated[str | None, typer.Option(help="For .safetensors, .pth or .pt: the torchvision model, e.g. resnet18.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def probe(
    encoder: AnyEncoder,
    data: Data = None,
    arch: Arch = None,
    few_shot: Annotated[
        str | None, typer.Option(help="Also with so many labels a class, comma-separated, e.g. 1,5,10,100.")
    ] = None,
    final: Final = False,
    image_size: ImageSize = None,
    groups: Groups = None,
    device: Device = None,
    json: Json = False,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Linear and kNN accuracy of an encoder's frozen features."""
    from agents.probing import parse_few, probe_encoder, probe_json

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    config, few = build_config(options), parse_few(few_shot)
    if json:
        typer.echo(probe_json(encoder, arch, config, few))
    else:
        probe_encoder(encoder, arch, config, Reporter(), few)


def embed(
    encoder: AnyEncoder,
    out: Annotated[Path, typer.Option(help="New file of features: .parquet, .npz or .csv.")],
    data: Data = None,
    arch: Arch = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels a side.", show_default="as the encoder was trained")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images that are encoded together.", min=1)] = None,
    device: Device = None,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Write the features of every image; stopped, the same command goes on."""
    from agents.embedding import embed as embed_images

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    own_size = image_size is None
    embed_images(encoder, arch, build_config(options), out, Reporter(), own_image_size=own_size, batch_size=batch_size)


def quality(
    encoder: AnyEncoder,
    data: Data = None,
    arch: Arch = None,
    goal: Goal = None,
    image_size: ImageSize = None,
    groups: Groups = None,
    json: Json = False,
    data_root: DataRoot = None,
    download: Download = False,
) -> None:
    """Measure an encoder without labels, beside an untrained one of the same architecture."""
    from agents.quality import print_quality, quality_json

    options = {name: value for name, value in locals().items() if name in _OF_DATA}
    config = build_config(options)
    if json:
        typer.echo(quality_json(encoder, arch, config))
    else:
        print_quality(encoder, arch, config, Reporter())


_OF_DATA = ("data", "final", "goal", "image_size", "groups", "device", "data_root", "download")
