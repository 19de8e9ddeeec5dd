"""Commands on an encoder that is there."""

from pathlib import Path
from typing import Annotated

import typer

from agents.options import (
    Data,
    DataRoot,
    Download,
    Final,
    Goal,
    Groups,
    ImageSize,
    build_config,
)
from agents.progress import Reporter


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
