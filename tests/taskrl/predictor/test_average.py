"""Promises of averaged weights: the stated rule, and training that does not notice."""

import torch
from torch import nn

from taskrl.predictor.average import WeightAverage
from taskrl.predictor.predictor import Predictor
from tests.builders import tiny_predictor


def weights(encoder: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


def train(predictor: Predictor, images: torch.Tensor) -> None:
    predictor.optimizer.zero_grad()
    predictor.encoder(images).square().mean().backward()
    predictor.optimizer.step()


def test_the_average_goes_on_after_a_decision_that_was_put_back() -> None:
    predictor = tiny_predictor()
    average = WeightAverage(predictor, 0.3)
    images = torch.rand(8, *predictor.sample_shape, generator=torch.Generator().manual_seed(0))
    train(predictor, images)
    first = weights(predictor.encoder)
    predictor.restore(predictor.snapshot())
    train(predictor, images)
    expected = 2 / 11 * first + 9 / 11 * weights(predictor.encoder)
    average.put()
    torch.testing.assert_close(weights(predictor.encoder), expected)


def test_the_average_follows_its_rule_and_training_does_not_notice() -> None:
    predictor, alone = tiny_predictor(), tiny_predictor()
    average = WeightAverage(predictor, 0.3)
    images = torch.rand(8, *predictor.sample_shape, generator=torch.Generator().manual_seed(0))
    seen = []
    for _ in range(4):
        for trained in (predictor, alone):
            train(trained, images)
        seen.append(weights(predictor.encoder))
    assert torch.equal(seen[-1], weights(alone.encoder))
    expected = seen[0]
    for decay, current in zip((2 / 11, 3 / 12, 0.3), seen[1:], strict=True):
        expected = decay * expected + (1 - decay) * current
    average.put()
    torch.testing.assert_close(weights(predictor.encoder), expected)
