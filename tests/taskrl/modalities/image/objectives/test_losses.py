"""Each loss equals a naive loop over its equation."""

import math

import pytest
import torch
from torch import Tensor

from taskrl.modalities.image.objectives.losses import masked_mse, nt_xent, standardised
from tests.builders import generator


def naive_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """SimCLR, eq. 1, in plain Python."""
    views = [*first.double().tolist(), *second.double().tolist()]
    num = len(first)

    def similarity(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    total = 0.0
    for i, view in enumerate(views):
        positive = views[(i + num) % (2 * num)]
        others = sum(math.exp(similarity(view, views[k]) / temperature) for k in range(2 * num) if k != i)
        total -= math.log(math.exp(similarity(view, positive) / temperature) / others)
    return total / (2 * num)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_nt_xent_equals_the_naive_loop(temperature: float) -> None:
    first, second = torch.randn((2, 6, 5), generator=generator())
    loss = float(nt_xent(first, second, temperature))
    assert loss == pytest.approx(naive_nt_xent(first, second, temperature), rel=1e-5)


def test_nt_xent_ignores_the_length_of_embeddings_and_the_order_of_pairs() -> None:
    first, second = torch.randn((2, 6, 5), generator=generator())
    order = torch.randperm(6, generator=generator(1))
    expected = nt_xent(first, second, 0.2)
    torch.testing.assert_close(nt_xent(3 * first, 0.5 * second, 0.2), expected)
    torch.testing.assert_close(nt_xent(second[order], first[order], 0.2), expected)


def test_nt_xent_is_least_when_pairs_agree_and_differ_from_all_others() -> None:
    apart = torch.eye(8)
    collapsed = torch.ones(8, 8)
    assert float(nt_xent(apart, apart, 0.1)) < 0.01
    assert float(nt_xent(collapsed, collapsed, 0.1)) == pytest.approx(math.log(15), rel=1e-5)


def test_masked_mse_equals_the_naive_loop() -> None:
    prediction, target = torch.randn((2, 2, 3, 4, 5), generator=generator())
    mask = torch.rand((2, 1, 4, 5), generator=generator(1)) < 0.4
    total, count = 0.0, 0
    for b in range(2):
        for c in range(3):
            for y in range(4):
                for x in range(5):
                    if mask[b, 0, y, x]:
                        total += float(prediction[b, c, y, x] - target[b, c, y, x]) ** 2
                        count += 1
    assert float(masked_mse(prediction, target, mask)) == pytest.approx(total / count, rel=1e-5)


def test_masked_mse_does_not_see_visible_pixels_and_is_0_for_an_empty_mask() -> None:
    target = torch.randn((2, 1, 4, 4), generator=generator())
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    assert float(masked_mse(target + 1, target, mask)) == 0
    mask[:, :, :2] = True
    wrong_where_visible = torch.where(mask, target, target + 5)
    assert float(masked_mse(wrong_where_visible, target, mask)) == 0
    assert float(masked_mse(target + 2, target, mask)) == pytest.approx(4.0)


def test_standardised_images_have_mean_0_and_sd_1_so_that_predicting_the_mean_scores_1() -> None:
    images = torch.rand((4, 3, 8, 8), generator=generator()) * torch.tensor([0.2, 0.5, 0.8, 1.0])[:, None, None, None]
    result = standardised(images)
    torch.testing.assert_close(result.mean(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(dim=(1, 2, 3)), torch.ones(4))
    everything = torch.ones(4, 1, 8, 8, dtype=torch.bool)
    assert float(masked_mse(torch.zeros_like(result), result, everything)) == pytest.approx(1.0, abs=0.01)


def test_standardised_leaves_a_constant_image_finite() -> None:
    assert torch.equal(standardised(torch.full((1, 1, 4, 4), 0.5)), torch.zeros(1, 1, 4, 4))
