"""HeadSpec -> module."""

from torch import Tensor, nn

from taskrl.errors import ConfigError, unknown_name
from taskrl.types import HeadSpec


class MapDecoder(nn.Module):
    """Feature map (B, D, h, w) to `out_dim` channels at `scale` times its resolution: two convolutions and a
    pixel shuffle.
    """

    def __init__(self, spec: HeadSpec, scale: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(spec.in_dim, spec.hidden_dim, kernel_size=3, padding=1)
        self.write = nn.Conv2d(spec.hidden_dim, spec.out_dim * scale * scale, kernel_size=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, features_BDhw: Tensor) -> Tensor:
        shuffled: Tensor = self.shuffle(self.write(nn.functional.relu(self.mix(features_BDhw))))
        return shuffled


def build_head(spec: HeadSpec, *, map_scale: int) -> nn.Module:
    """The module for `spec`, initialised from torch's global generator. map_scale: input pixels a cell of the
    feature map.
    """
    if spec.kind == "mlp":
        return nn.Sequential(
            nn.Linear(spec.in_dim, spec.hidden_dim), nn.ReLU(), nn.Linear(spec.hidden_dim, spec.out_dim)
        )
    if spec.kind == "map_decoder":
        return MapDecoder(spec, map_scale)
    raise ConfigError(unknown_name("head kind", spec.kind, ("mlp", "map_decoder")))
