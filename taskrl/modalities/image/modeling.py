"""Image encoders in one self-contained file: used in training and, copied, shipped beside exported weights.

Needs torch; torchvision only for torchvision architectures, safetensors only to load a folder.

    encoder = load_encoder("path/to/encoder")
    features_BD = encoder(images_BCHW)                    # images float in [0, 1] or uint8
    map_BDhw = encoder.feature_map(images_BCHW)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = "small"
SMALL_BLOCKS = (0, 1)
TINY = 1e-30

# Modules of a torchvision model that make its feature map, by the start of its name.
TRUNKS: dict[str, tuple[str, ...]] = {
    "resnet": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "resnext": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "regnet": ("stem", "trunk_output"),
    "shufflenet": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    "mobilenet": ("features",),
    "efficientnet": ("features",),
    "convnext": ("features",),
    "densenet": ("features",),
    "squeezenet": ("features",),
    "vgg": ("features",),
}


def initialise(module: nn.Module) -> None:
    """He initialisation (fan-out) of convolutions; normalisation layers start as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, basic block)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class MeanMaxPool(torch.autograd.Function):
    """Mean + maximum over positions, (B, P, D) to (B, D). Equal maxima share the gradient, as in torch's amax.

    Its own backward, because torch's costs a fifth of a training step of the small net (layout copies, comparisons that
    are not vectorised).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(positions_BPD: Tensor) -> tuple[Tensor, Tensor]:
        largest_BD = positions_BPD.amax(1)
        return largest_BD + positions_BPD.mean(1), largest_BD

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, gradient_BD: Tensor, _: Tensor) -> Tensor:
        positions_BPD, largest_BD = ctx.saved_tensors
        # 1 where the difference is 0, else 0: comparisons, which give bool, take several times as long
        below_BPD = positions_BPD - largest_BD.unsqueeze(1)
        is_largest = F.threshold(below_BPD, -TINY, -1.0).add_(1)
        to_largest = gradient_BD / is_largest.sum(1)
        share = gradient_BD / positions_BPD.shape[1]
        gradient_BPD: Tensor = is_largest.mul_(to_largest.unsqueeze(1)).add_(share.unsqueeze(1))
        return gradient_BPD


class SmallNet(nn.Module):
    """A residual net for small images on a CPU.

    A stem of stride 2, then stages of residual blocks; each stage after the first halves the map and doubles the width.
    `blocks` are the residual blocks of each stage. A 1x1 convolution then widens the map to 4 x width: features that
    a linear
    probe can use cost little there. (28, 28) inputs and two stages end in a 7x7 map. Pooled features are mean +
    maximum: the
    maximum finds an object wherever it lies.
    """

    def __init__(self, *, in_channels: int, width: int = 32, blocks: Sequence[int] = SMALL_BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages: list[nn.Module] = []
        channels = width
        for index, num_blocks in enumerate(blocks):
            out_channels = width * 2**index
            for block in range(num_blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stages.append(ResidualBlock(channels, out_channels, stride))
                channels = out_channels
        self.blocks = nn.Sequential(*stages)
        self.trunk_names = ("stem", "blocks", "widen")
        self.feature_dim = 4 * width
        self.widen = nn.Sequential(
            nn.Conv2d(channels, self.feature_dim, 1, bias=False), nn.BatchNorm2d(self.feature_dim), nn.ReLU()
        )
        initialise(self)

    @property
    def backbone(self) -> nn.Module:
        """The module whose state dict is exported."""
        return self

    def feature_map(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to a map (B, feature_dim, h, w)."""
        out: Tensor = self.widen(self.blocks(self.stem(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        positions = self.feature_map(x).permute(0, 2, 3, 1).flatten(1, 2)
        if not positions.requires_grad:
            return positions.mean(1) + positions.amax(1)
        pooled: Tensor = MeanMaxPool.apply(positions)[0]
        return pooled


class TorchvisionNet(nn.Module):
    """A torchvision classification model without its classifier, untrained; its parameters keep torchvision's names.

    The pooled features are the mean of the map (then convnext's own norm). Dropout and stochastic depth are off.
    small_stem: resnets only; a 3x3 stem of stride 1 and no max-pooling (SimCLR, appendix B.9).
    """

    def __init__(self, architecture: str, *, in_channels: int, small_stem: bool = False) -> None:
        super().__init__()
        from torchvision import models

        family = next((start for start in TRUNKS if architecture.startswith(start)), None)
        if family is None:
            raise ValueError(f"{architecture!r} is not a known architecture; known families: {', '.join(TRUNKS)}.")
        if small_stem and "resne" not in family:
            raise ValueError(f"{architecture!r} has no small stem; only resnets have one.")
        options = {"stochastic_depth_prob": 0.0} if family in ("efficientnet", "convnext") else {}
        net: Any = models.get_model(architecture, weights=None, num_classes=1, **options)
        head = "fc" if hasattr(net, "fc") else "classifier"
        # convnext normalises after pooling; that norm belongs to the features, the rest is the classifier.
        setattr(net, head, net.classifier[:1] if family == "convnext" else nn.Identity())
        if small_stem:
            net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
            net.maxpool = nn.Identity()
            initialise(net.conv1)
        if in_channels != 3:
            _replace_first_conv(net, in_channels)
        self.backbone = net
        self.trunk_names = TRUNKS[family]
        self._head = head
        self._relu_map = family == "densenet"
        self.feature_dim = self._count_features(in_channels)

    def _count_features(self, in_channels: int) -> int:
        training = self.training
        with torch.no_grad():
            size: int = self.eval().feature_map(torch.zeros(1, in_channels, 32, 32)).shape[1]
        self.train(training)
        return size

    def feature_map(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to a map (B, feature_dim, h, w)."""
        for name in self.trunk_names:
            x = getattr(self.backbone, name)(x)
        return torch.relu(x) if self._relu_map else x

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = getattr(self.backbone, self._head)(self.feature_map(x).mean(dim=(2, 3), keepdim=True))
        return pooled.flatten(1)


def _replace_first_conv(net: nn.Module, in_channels: int) -> None:
    name, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    initialise(new)
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, new)


class Encoder(nn.Module):
    """A net behind its input normalisation: images, float in [0, 1] or uint8, to features.

    mean, std: of the channels of images in [0, 1]; constants from the configuration, not part of the state dict.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: SmallNet | TorchvisionNet, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32), persistent=False)

    @property
    def feature_dim(self) -> int:
        return self.net.feature_dim

    @property
    def backbone(self) -> nn.Module:
        """The module whose state dict is exported; a torchvision architecture keeps torchvision's names."""
        return self.net.backbone

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to what the net sees. Raises ValueError for another shape or type."""
        if images.ndim != 4 or images.shape[1] != self.mean.shape[0]:
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (B, {self.mean.shape[0]}, H, W).")
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        elif not images.is_floating_point():
            raise ValueError(f"images of type {images.dtype}; expected float in [0, 1] or uint8.")
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    def feature_map(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to a feature map (B, feature_dim, h, w)."""
        return self.net.feature_map(self.normalise(images))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to features (B, feature_dim)."""
        out: Tensor = self.net(self.normalise(images))
        return out


def build_encoder(config: Mapping[str, Any]) -> Encoder:
    """An untrained encoder from its configuration; draws from torch's global generator.

    Keys: architecture, in_channels, mean, std; width and blocks for "small"; small_stem for resnets; others are
    ignored.
    """
    architecture, in_channels = str(config["architecture"]), int(config["in_channels"])
    net: SmallNet | TorchvisionNet
    if architecture == SMALL:
        shape = {key: config[key] for key in ("width", "blocks") if key in config}
        net = SmallNet(in_channels=in_channels, **shape)
    else:
        net = TorchvisionNet(architecture, in_channels=in_channels, small_stem=bool(config.get("small_stem", False)))
    return Encoder(net, mean=config["mean"], std=config["std"])


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder stored in `folder` (config.json, model.safetensors), on the CPU, in eval mode."""
    import json

    from safetensors.torch import load_file

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        encoder = build_encoder(config)
    encoder.backbone.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return encoder.eval()
