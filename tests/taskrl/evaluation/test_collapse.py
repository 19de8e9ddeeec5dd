"""Collapse signals against their closed forms."""

import math

import pytest
import torch

from taskrl.evaluation.collapse import effective_rank, feature_std, uniformity
from tests.builders import generator


def cross(dim: int) -> torch.Tensor:
    """The 2 x dim corners of the cross-polytope: +e_i and -e_i."""
    return torch.cat([torch.eye(dim), -torch.eye(dim)])


def test_effective_rank_is_1_when_all_directions_are_equal_and_1_over_d_on_a_line() -> None:
    assert effective_rank(cross(8)) == pytest.approx(1)
    line = torch.linspace(-1, 3, 20)[:, None] * torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    assert effective_rank(line) == pytest.approx(1 / 4, abs=1e-6)
    plane = torch.cat([cross(2), torch.zeros(4, 6)], dim=1)
    assert effective_rank(plane) == pytest.approx(2 / 8)


def test_effective_rank_is_0_when_collapsed_and_ignores_offset_and_scale() -> None:
    assert effective_rank(torch.full((10, 4), 3.0)) == 0
    features = torch.randn((30, 6), generator=generator())
    assert effective_rank(5 * features + 7) == pytest.approx(effective_rank(features), abs=1e-5)


def test_uniformity_of_two_opposite_points_is_minus_8_and_of_one_point_0() -> None:
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.tensor([[2.0, 0.0], [0.0, 7.0]])) == pytest.approx(-4)


def test_uniformity_of_the_cross_polytope_is_its_closed_form() -> None:
    dim = 6
    opposite, orthogonal = dim, dim * (2 * dim - 1) - dim
    expected = math.log((opposite * math.exp(-8) + orthogonal * math.exp(-4)) / (opposite + orthogonal))
    assert uniformity(cross(dim)) == pytest.approx(expected)


def test_feature_std_is_about_1_when_spread_out_0_when_collapsed_and_exact_on_the_cross_polytope() -> None:
    assert feature_std(torch.randn((2000, 64), generator=generator())) == pytest.approx(1, abs=0.02)
    assert feature_std(torch.arange(1, 9)[:, None] * torch.ones(1, 4)) == pytest.approx(0, abs=1e-6)
    dim = 8
    assert feature_std(cross(dim)) == pytest.approx(math.sqrt(2 / (2 * dim - 1)) * math.sqrt(dim), rel=1e-5)
