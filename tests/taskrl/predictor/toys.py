"""A hand-countable encoder and a task that records what it is called with."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from taskrl.predictor.predictor import Predictor
from taskrl.tasks.task import Mixture, MixturePart, PretextTask
from taskrl.types import Budget, HeadSpec, Networks
from tests.builders import generator, random_images

FEATURES, HIDDEN, CLASSES, SIZE = 4, 6, 3, 8


class ToyEncoder(nn.Module):
    """One 3x3 convolution of one channel to `FEATURES`, then the mean."""

    feature_dim = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, FEATURES, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(self.conv.weight.shape, generator=generator()))

    def feature_map(self, inputs: Tensor) -> Tensor:
        inputs = inputs / 255 if inputs.dtype == torch.uint8 else inputs
        out: Tensor = self.conv(inputs)
        return out

    def forward(self, inputs: Tensor) -> Tensor:
        return self.feature_map(inputs).mean(dim=(2, 3))


def toy_predictor(learning_rate: float = 1e-2) -> Predictor:
    return Predictor(
        ToyEncoder(), feature_dim=FEATURES, sample_shape=(1, SIZE, SIZE), learning_rate=learning_rate, seed=0
    )


class ToyTask(PretextTask):
    """Classifies images as class 0; calls `spy` with its number of calls before each loss and `spoil` after it."""

    def __init__(
        self,
        name: str = "toy",
        spy: Callable[[int], None] | None = None,
        spoil: Callable[[int, Tensor], Tensor] | None = None,
        views: int = 1,
    ) -> None:
        self.name, self.spy, self.spoil, self.views, self.num_calls = name, spy, spoil, views, 0

    def head_specs(self, feature_dim: int) -> Mapping[str, HeadSpec]:
        return {self.name: HeadSpec(kind="mlp", in_dim=feature_dim, hidden_dim=HIDDEN, out_dim=CLASSES)}

    def make_views(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.rand((self.views * len(batch), *batch.shape[1:]), generator=rng)
        return (batch.repeat(self.views, 1, 1, 1) / 255 + noise) / 2

    def loss(self, nets: Networks, views: Tensor) -> Tensor:
        if self.spy:
            self.spy(self.num_calls)
        labels = torch.zeros(len(views), dtype=torch.int64)
        loss = nn.functional.cross_entropy(nets.head(self.name, nets.features(views)), labels)
        self.num_calls += 1
        return self.spoil(self.num_calls - 1, loss) if self.spoil else loss

    def num_encoded(self, batch_size: int) -> int:
        return self.views * batch_size


def mixture(*parts: tuple[ToyTask, float]) -> Mixture:
    return Mixture(tuple(MixturePart(name=task.name, share=share, task=task) for task, share in parts))


def toy_flops(batch_size: int, *, frozen: bool = False) -> int:
    """Forward and backward of the toy: the image needs no gradient, nor do features under a frozen encoder."""
    conv = 2 * batch_size * FEATURES * SIZE * SIZE * 9
    first, second = 2 * batch_size * FEATURES * HIDDEN, 2 * batch_size * HIDDEN * CLASSES
    return conv + 2 * first + 3 * second if frozen else 2 * conv + 3 * first + 3 * second


def endless(batch_size: int = 8, size: int = SIZE):  # type: ignore[no-untyped-def]
    seed = 0
    while True:
        yield random_images(batch_size, 1, size, seed=seed)
        seed += 1


def budget(flops: float, start: float = 0.0, end: float = 1.0) -> Budget:
    return Budget(flops=int(flops), start=start, end=end)
