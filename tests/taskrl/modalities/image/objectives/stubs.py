"""Networks that answer with what a test wants, and the naive cross entropy."""

import math

from torch import Tensor


class StubNetworks:
    """Features are per-image means in each channel, heads answer `outputs`; what heads were given is kept."""

    def __init__(self, outputs: Tensor | None = None) -> None:
        self.outputs = outputs
        self.given: list[Tensor] = []

    def features(self, inputs: Tensor) -> Tensor:
        return inputs.mean(dim=(2, 3))

    def feature_map(self, inputs: Tensor) -> Tensor:
        return inputs

    def head(self, name: str, features: Tensor) -> Tensor:
        self.given.append(features)
        return features if self.outputs is None else self.outputs


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    total = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
    return total / len(labels)
