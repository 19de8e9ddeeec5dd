"""Spectral measures against numpy's and scipy's decompositions and their closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from taskrl.evaluation.spectrum import alpha_req, centred, lidar, participation_ratio, rankme
from tests.builders import generator
from tests.taskrl.evaluation.features import noise, rotation

MATRIX_MEASURES = (rankme, alpha_req, participation_ratio)
SHAPES = [(60, 8), (20, 40)]


def with_spectrum(eigenvalues: Tensor, num: int) -> Tensor:
    """Features of mean exactly 0 whose scatter matrix has exactly these eigenvalues, rotated."""
    dim = len(eigenvalues)
    raw = noise(num, dim)
    directions = torch.linalg.qr(raw - raw.mean(0))[0]
    return directions * eigenvalues.sqrt() @ rotation(dim)


def numpy_entropy_rank(values: np.ndarray) -> float:
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def naive_lidar(views_NQD: np.ndarray, delta: float) -> float:
    """Loops over classes and views, whitening by scipy's inverse matrix square root."""
    num, num_views, dim = views_NQD.shape
    mean = views_NQD.mean((0, 1))
    between, within = np.zeros((dim, dim)), delta * np.eye(dim)
    for views in views_NQD:
        own = views.mean(0)
        between += np.outer(own - mean, own - mean) / num
        for view in views:
            within += np.outer(view - own, view - own) / (num * num_views)
    root = np.linalg.inv(scipy.linalg.sqrtm(within).real)
    values = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    return numpy_entropy_rank(np.sort(values)[::-1][: min(num, dim)])


@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_rankme_equals_the_entropy_of_numpys_singular_values(num: int, dim: int) -> None:
    features = noise(num, dim) * torch.linspace(0.1, 3, dim) + 1
    values = np.linalg.svd(features.numpy(), compute_uv=False)
    assert rankme(features) == pytest.approx(numpy_entropy_rank(values), rel=1e-6)


def test_rankme_of_orthonormal_rows_is_exactly_their_number() -> None:
    assert rankme(torch.eye(16)) == 16
    assert rankme(rotation(16)[:5]) == 5


def test_rankme_counts_equal_directions_and_a_common_offset_as_one_more() -> None:
    plane = torch.cat([torch.eye(2), -torch.eye(2)]).repeat(5, 1)
    features = torch.cat([plane, torch.zeros(20, 6)], dim=1)
    assert rankme(features) == pytest.approx(2, abs=1e-4)
    features[:, 7] = math.sqrt(0.5)
    assert rankme(features) == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_a_power_law_spectrum_gives_its_exponent(alpha: float) -> None:
    spectrum = torch.arange(1, 61, dtype=torch.float64) ** -alpha
    assert alpha_req(with_spectrum(spectrum, num=200)) == pytest.approx(alpha, abs=1e-6)


def test_alpha_equals_numpys_weighted_fit_on_the_chosen_ranks() -> None:
    features = noise(100, 30) * torch.linspace(3, 0.1, 30)
    values = np.sort(np.linalg.eigvalsh(np.cov(features.numpy().T)))[::-1]
    rank = np.arange(4, 21)
    # polyfit squares its weights
    slope = np.polyfit(np.log(rank), np.log(values[3:20]), 1, w=np.sqrt(1 / rank))[0]
    assert alpha_req(features, ranks=(4, 20)) == pytest.approx(-slope, rel=1e-9)


def test_alpha_ignores_ranks_outside_its_range_and_the_scale() -> None:
    spectrum = torch.arange(1, 61, dtype=torch.float64) ** -1.0
    spectrum[:2] *= 100
    spectrum[50:] *= 0.001
    assert alpha_req(7 * with_spectrum(spectrum, num=200)) == pytest.approx(1, abs=1e-6)
    assert alpha_req(with_spectrum(spectrum, num=200), ranks=(1, 60)) > 1.1


def test_alpha_of_fewer_than_two_usable_ranks_is_0() -> None:
    assert alpha_req(noise(3, 40)) == 0
    assert alpha_req(noise(40, 3)) == 0
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(1, 10)
    assert alpha_req(line) == 0


@pytest.mark.parametrize(("num", "dim"), [(30, 6), (8, 12)])
@pytest.mark.parametrize("delta", [1e-4, 0.1])
def test_lidar_equals_the_naive_loop(num: int, dim: int, delta: float) -> None:
    own = noise(num, 1, dim) * torch.linspace(0.2, 2, dim)
    views = own + 0.3 * noise(num, 5, dim, seed=1) * torch.linspace(1, 0.1, dim) + 2
    assert lidar(views, delta) == pytest.approx(naive_lidar(views.numpy(), delta), rel=1e-5)


def test_lidar_sees_only_directions_that_differ_between_inputs() -> None:
    own = torch.cat([noise(400, 3), torch.zeros(400, 5)], dim=1)[:, None]
    spread = torch.tensor([0.1, 0.1, 0.1, 3, 3, 3, 3, 3], dtype=torch.float64)
    views = own + spread * noise(400, 10, 8, seed=1)
    # the noise of class means is left in the other five: 3 of 8 directions, each 300 times as large
    assert lidar(views) == pytest.approx(3, abs=0.1)
    assert rankme(views.flatten(0, 1)) > 5


def test_lidar_with_one_view_is_the_rank_of_the_covariance() -> None:
    features = noise(40, 6)
    values = np.linalg.eigvalsh(np.cov(features.numpy().T))
    assert lidar(features[:, None]) == pytest.approx(numpy_entropy_rank(values), rel=1e-6)


@pytest.mark.parametrize(("num", "dim"), SHAPES)
def test_participation_ratio_equals_its_definition_on_numpys_eigenvalues(num: int, dim: int) -> None:
    features = noise(num, dim) * torch.linspace(0.1, 3, dim) + 4
    values = np.linalg.eigvalsh(np.cov(features.numpy().T))
    assert participation_ratio(features) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)


def test_an_isotropic_gaussian_uses_all_directions() -> None:
    features = noise(20000, 8)
    assert participation_ratio(features) == pytest.approx(8, rel=0.01)
    assert rankme(features) == pytest.approx(8, rel=0.01)
    assert alpha_req(features) == pytest.approx(0, abs=0.1)
    assert lidar(noise(4000, 4, 8)) == pytest.approx(8, rel=0.01)


def test_no_measure_leaves_its_range() -> None:
    for num, dim in [(2, 3), (5, 50), (50, 5), (1, 4), (2, 1)]:
        features = noise(num, dim)
        assert 1 <= rankme(features) <= min(num, dim)
        assert 1 <= participation_ratio(features) <= max(1, min(num - 1, dim)) + 1e-9
        assert 1 <= lidar(noise(num, 3, dim)) <= max(1, min(num - 1, dim))
        assert math.isfinite(alpha_req(features))


@pytest.mark.parametrize("measure", MATRIX_MEASURES)
def test_rotations_and_scales_change_nothing(measure: Callable[[Tensor], float]) -> None:
    features = noise(50, 12) * torch.linspace(3, 0.1, 12) + 1
    expected = measure(features)
    assert measure(features @ rotation(12)) == pytest.approx(expected, rel=1e-6)
    assert measure(0.01 * features) == pytest.approx(expected, rel=1e-6)


def test_a_common_offset_changes_centred_measures_not_at_all() -> None:
    features, views = noise(50, 12), noise(20, 3, 6)
    assert alpha_req(features + 9) == pytest.approx(alpha_req(features))
    assert participation_ratio(features + 9) == pytest.approx(participation_ratio(features))
    assert lidar(views + 9) == pytest.approx(lidar(views), rel=1e-5)
    assert lidar(views @ rotation(6)) == pytest.approx(lidar(views), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_constant_features_have_their_stated_values(value: float) -> None:
    features = torch.full((30, 5), value)
    assert rankme(features) == pytest.approx(1, abs=1e-4)
    assert (alpha_req(features), participation_ratio(features), lidar(features[:, None].repeat(1, 3, 1))) == (0, 1, 1)


def test_float32_round_off_does_not_count_as_variation() -> None:
    features = torch.full((200, 5), 0.3) * (1 + 1e-7 * torch.randn((200, 5), generator=generator()))
    assert participation_ratio(features) == 1
    assert not centred(features).any()
    assert centred(torch.tensor([[0.3, 0.3], [0.3, 0.30001]])).any()


def test_duplicated_rows_change_neither_spectrum_nor_shares() -> None:
    features = noise(40, 6)
    for measure in MATRIX_MEASURES:
        assert measure(features.repeat(3, 1)) == pytest.approx(measure(features), rel=1e-6)


def test_features_that_are_not_finite_give_nan() -> None:
    for bad in (math.nan, math.inf):
        features = noise(10, 4)
        features[3, 2] = bad
        assert all(math.isnan(measure(features)) for measure in MATRIX_MEASURES)
        assert math.isnan(lidar(features[:, None]))
