"""Going on from an encoder that is there: opened once, fitted to the images, copied for every predictor."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskrl.config import PredictorConfig
from taskrl.errors import ConfigError, DataError, RunFolderError
from taskrl.export import CONFIG, WEIGHTS, load_exported
from taskrl.folders import fingerprint, read_json
from taskrl.modalities.image.encoders import ENCODERS
from taskrl.modalities.image.modeling import SMALL, Encoder, build_encoder
from taskrl.modalities.image.state_dicts import LoadedEncoder, load_weights

BUILT_FROM = ("architecture", "in_channels", "width", "blocks", "small_stem", "mean", "std")
TINY_MAP = 64


@dataclass(frozen=True)
class Initial:
    """An encoder to go on from, on the CPU. config: rebuilds it, as `make_encoder` gives it. notes: sentences."""

    encoder: Encoder
    config: Mapping[str, Any]
    notes: tuple[str, ...]

    def fresh(self) -> Encoder:
        """A copy that may be trained."""
        return copy.deepcopy(self.encoder).train()


def open_encoder(path: Path, architecture: str | None) -> LoadedEncoder:
    """The encoder in a folder that taskrl wrote, in a run that has one, or in a file of weights (with `architecture`, a
    torchvision model's name). Raises ConfigError, DataError or RunFolderError.
    """
    if path.is_file():
        if architecture is None:
            raise ConfigError(
                f"{str(path)!r} is a file of weights; name the torchvision model that they belong to, e.g. "
                "--arch resnet18."
            )
        return load_weights(path, architecture)
    folder = encoder_folder(path)
    encoder = load_exported(folder)
    if architecture is not None:
        raise ConfigError(f"{str(path)!r} says itself what its encoder is; leave --arch {architecture} out.")
    return LoadedEncoder(encoder, read_json(folder / CONFIG), ())


def weights_file(path: Path) -> Path:
    """The file that holds the weights of the encoder that `open_encoder` reads from `path`."""
    return path if path.is_file() else encoder_folder(path) / WEIGHTS


def encoder_folder(path: Path) -> Path:
    """`path`, or encoder/ in it where `path` is a run."""
    return path / "encoder" if (path / "encoder").is_dir() else path


def with_initial(settings: PredictorConfig) -> PredictorConfig:
    """`settings` with what the encoder at settings.init says of itself: architecture, width and SHA-256 of the weights.

    Raises ConfigError, DataError or RunFolderError; also where the weights are not those that the settings name, and
    where the settings were given another architecture or width.
    """
    if not settings.init:
        return settings
    path = Path(settings.init).absolute()
    name = _architecture(path, settings)
    file = weights_file(path)
    if not file.is_file():
        raise RunFolderError(f"{str(file)!r} is missing; copy or export the encoder again.")
    digest = str(fingerprint(file)["sha256"])
    if settings.init_sha256 not in ("", digest):
        raise ConfigError(
            f"The weights in {str(file)!r} are not those that this was begun with (SHA-256 {digest[:12]}..., not "
            f"{settings.init_sha256[:12]}...); put the old file back, or begin anew."
        )
    width = _opened(path, name if path.is_file() else None, digest).config.get("width", settings.width)
    if width != settings.width and _is_given(settings, "width"):
        raise ConfigError(
            f"--init {str(path)!r} has width {width}, and predictor.width is {settings.width}; leave predictor.width "
            f"out, or give --set predictor.width={width} where --config names the other."
        )
    update = {"init": str(path), "init_sha256": digest, "encoder": name, "width": width}
    return settings.model_copy(update=update)


def initial_encoder(settings: PredictorConfig, shape: Sequence[int]) -> Initial:
    """The encoder at settings.init for images of `shape` (C, H, W); settings: from `with_initial`.

    Images are normalised by the mean and sd that the encoder was trained with. For grey images the first convolution
    of an encoder of colour images is summed over its channels (as timm's `in_chans=1` does), and mean and sd are
    averaged. Raises ConfigError or DataError for images that it cannot take.
    """
    path = Path(settings.init)
    loaded = _opened(path, settings.encoder if path.is_file() else None, settings.init_sha256)
    channels, size = shape[0], shape[1]
    taken = int(loaded.config["in_channels"])
    if taken < channels:
        raise DataError(
            f"The encoder of --init takes grey images and these have {channels} channels; give grey images, or an "
            "encoder of colour images."
        )
    smallest = ENCODERS[settings.encoder].min_image_size
    if size < smallest:
        raise ConfigError(
            f"Encoder {settings.encoder!r} needs images of at least {smallest} pixels a side, not {size}; "
            "give larger images or --image-size."
        )
    notes = [f"the encoder is {settings.encoder} from {str(path)!r}; `untrained` stands for it as it is", *loaded.notes]
    config = {key: loaded.config[key] for key in BUILT_FROM if key in loaded.config}
    encoder = loaded.encoder
    if taken > channels:
        encoder, config = _for_grey(encoder, config)
        notes.append("grey images: the encoder's first convolution is summed over its colour channels")
    if settings.encoder != SMALL and not config.get("small_stem") and size <= TINY_MAP:
        notes.append(f"the encoder's stem is for large images; at {size} pixels its map is small: try --image-size 96")
    config |= {"image_size": size, "feature_dim": encoder.feature_dim}
    return Initial(encoder, config, tuple(notes))


@functools.lru_cache(maxsize=2)
def _opened(path: Path, architecture: str | None, digest: str) -> LoadedEncoder:
    """digest: of the weights, so that a file that changes is read again."""
    return open_encoder(path, architecture)


def _is_given(settings: PredictorConfig, name: str) -> bool:
    """Whether the user set it. What has been resolved once names every setting, and the weights."""
    return name in settings.model_fields_set and not settings.init_sha256


def _architecture(path: Path, settings: PredictorConfig) -> str:
    asked = settings.encoder
    if path.is_file():
        if asked == SMALL:
            raise ConfigError(
                f"--init {str(path)!r} is a file of weights; name the torchvision model that they belong to, e.g. "
                "--encoder resnet18."
            )
        ENCODERS[asked]
        return asked
    if not (encoder_folder(path) / CONFIG).is_file():
        raise ConfigError(
            f"--init {str(path)!r} is no encoder; give a run, a folder that taskrl exported, or a file of weights with "
            "its --encoder."
        )
    name = str(read_json(encoder_folder(path) / CONFIG).get("architecture"))
    if asked != name and (asked != SMALL or _is_given(settings, "encoder")):
        raise ConfigError(
            f"--init {str(path)!r} holds a {name}, not a {asked}; leave --encoder {asked} out, or give --encoder "
            f"{name} where --config names the other."
        )
    return name


def _for_grey(encoder: Encoder, config: Mapping[str, Any]) -> tuple[Encoder, dict[str, Any]]:
    means = {key: [sum(config[key]) / len(config[key])] for key in ("mean", "std")}
    grey = {**config, **means, "in_channels": 1}
    with torch.random.fork_rng(devices=[]):  # its weights are replaced: nothing that is drawn later may depend on them
        adapted, state = build_encoder(grey), encoder.backbone.state_dict()
    first = next(name for name, value in state.items() if value.ndim == 4)
    adapted.backbone.load_state_dict(state | {first: state[first].sum(1, keepdim=True)})
    return adapted, grey
