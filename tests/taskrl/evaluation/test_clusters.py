"""Clusters and neighbours against scikit-learn, naive loops and data whose answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torch import Tensor

from taskrl.evaluation.accuracy import knn_predictions
from taskrl.evaluation.clusters import (
    Clustering,
    adjusted_rand,
    centred_unit,
    clid,
    cluster_learnability,
    cluster_stability,
    intrinsic_dimension,
    kmeans,
    neighbour_overlap,
    neighbour_vote,
)
from tests.builders import generator
from tests.taskrl.evaluation.features import noise, rotation


def groups(num: int, spread: float, num_groups: int = 8, dim: int = 20) -> tuple[Tensor, Tensor]:
    """Features around `num_groups` corners, and which corner."""
    labels = torch.arange(num) % num_groups
    return torch.eye(dim, dtype=torch.float64)[labels] + spread * noise(num, dim), labels


def sklearn_inertia(features: Tensor, num_clusters: int) -> float:
    return float(KMeans(num_clusters, n_init=10, max_iter=100, random_state=0).fit(features.numpy()).inertia_)


@pytest.mark.parametrize(("num", "dim", "num_clusters"), [(300, 16, 10), (400, 5, 20), (30, 60, 4)])
def test_kmeans_is_within_a_few_percent_of_the_best_of_scikit_learns_ten(num: int, dim: int, num_clusters: int) -> None:
    features = noise(num, dim)
    found = kmeans(features, num_clusters, generator(1))
    assert found.inertia <= 1.05 * sklearn_inertia(features, num_clusters)


def test_kmeans_finds_clear_groups_from_any_seed() -> None:
    features, labels = groups(160, spread=0.05)
    for seed in range(10):
        assert adjusted_rand(kmeans(features, 8, generator(seed)).assignments_N, labels) == 1


def test_kmeans_is_a_fixed_point_of_lloyds_algorithm_in_its_own_words() -> None:
    features = noise(120, 4)
    found = kmeans(features, 6, generator(), num_iterations=200)
    distances = torch.cdist(features, found.centres_KD)
    assert torch.equal(distances.argmin(1), found.assignments_N)
    assert found.inertia == pytest.approx(float(distances.min(1).values.square().sum()))
    for cluster in range(6):
        assert torch.allclose(found.centres_KD[cluster], features[found.assignments_N == cluster].mean(0))


def test_kmeans_of_the_same_generator_is_the_same_and_draws_as_much_for_any_features() -> None:
    first, second = generator(3), generator(3)
    found, again = kmeans(noise(80, 5), 6, first), kmeans(noise(80, 5), 6, second)
    assert torch.equal(found.assignments_N, again.assignments_N)
    kmeans(torch.zeros(80, 5), 6, first)
    kmeans(noise(80, 5, seed=9), 6, second)
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_kmeans_leaves_no_cluster_empty_while_inputs_differ() -> None:
    far = torch.tensor([[0.0, 0], [0.01, 0], [100, 0], [101, 0], [200, 7], [300, 1]])
    for seed in range(10):
        assert kmeans(far, 6, generator(seed)).assignments_N.unique().numel() == 6


def degenerate() -> list[Tensor]:
    return [torch.ones(12, 3), torch.zeros(12, 3), noise(2, 3).repeat(6, 1), noise(2, 30), noise(1, 4), noise(3, 1)]


def test_kmeans_takes_copies_and_fewer_inputs_than_clusters() -> None:
    for features in degenerate():
        found = kmeans(features, 5, generator())
        assert isinstance(found, Clustering) and math.isfinite(found.inertia)
        assert len(found.centres_KD) == min(5, len(features)) and torch.isfinite(found.centres_KD).all()
    assert kmeans(degenerate()[2], 5, generator()).inertia == pytest.approx(0, abs=1e-12)


def test_the_vote_of_one_neighbour_equals_scikit_learns() -> None:
    fit, score, labels = noise(60, 5), noise(40, 5, seed=1), torch.arange(60) % 4
    unit_fit, unit_score = (torch.nn.functional.normalize(part, dim=1) for part in (fit, score))
    model = KNeighborsClassifier(1, metric="cosine").fit(fit.numpy(), labels.numpy())
    assert neighbour_vote(unit_fit, labels, unit_score, 1).tolist() == model.predict(score.numpy()).tolist()
    weighted = neighbour_vote(unit_fit, labels, unit_score, 20, temperature=0.07)
    assert weighted.tolist() == knn_predictions(fit, labels, score).tolist()


def test_a_tied_vote_goes_to_the_nearest() -> None:
    fit = torch.tensor([[1.0], [0.9], [0.8], [0.7]], dtype=torch.float64)
    one = torch.ones((1, 1), dtype=torch.float64)
    assert neighbour_vote(fit, torch.tensor([2, 1, 1, 2]), one, 4).tolist() == [2]
    assert neighbour_vote(fit, torch.tensor([2, 1, 1, 0]), one, 4).tolist() == [1]


@pytest.mark.parametrize("num_neighbours", [1, 5])
def test_cluster_learnability_equals_scikit_learns_knn_on_the_same_pseudo_labels(num_neighbours: int) -> None:
    features = noise(150, 6)
    unit = centred_unit(features)
    rng = generator(4)
    labels = kmeans(unit, 12, rng).assignments_N.numpy()
    order = torch.randperm(150, generator=rng).numpy()
    hits = 0
    for fitted, held in ((order[:75], order[75:]), (order[75:], order[:75])):
        near = NearestNeighbors(n_neighbors=num_neighbours, metric="cosine").fit(unit[fitted].numpy())
        for row, index in zip(held, near.kneighbors(unit[held].numpy(), return_distance=False), strict=True):
            votes = labels[fitted[index]].tolist()
            # max takes the first, which is the nearest, of equals
            hits += max(votes, key=votes.count) == labels[row]
    measured = cluster_learnability(features, generator(4), num_clusters=12, num_neighbours=num_neighbours)
    assert measured == pytest.approx(hits / 150)


def test_clear_groups_are_learnable_and_noise_of_many_dimensions_is_not() -> None:
    clear, _ = groups(160, spread=0.02)
    assert cluster_learnability(clear, generator(), num_clusters=8) == 1
    assert cluster_learnability(noise(160, 100), generator(), num_clusters=8) < 0.45


def test_learnability_of_random_labels_is_chance() -> None:
    unit, labels = centred_unit(noise(600, 50)), torch.randint(4, (600,), generator=generator(1))
    hits = neighbour_vote(unit[:300], labels[:300], unit[300:], 1) == labels[300:]
    assert float(hits.double().mean()) == pytest.approx(0.25, abs=0.08)


def numpy_two_nn(features: Tensor) -> float:
    """Facco et al. by scikit-learn's neighbours and numpy's least squares."""
    distances = NearestNeighbors(n_neighbors=3).fit(features.numpy()).kneighbors()[0]
    ratio = np.sort(distances[:, 1] / distances[:, 0])
    num = len(ratio)
    used = int(0.9 * num)
    x, y = np.log(ratio[:used]), -np.log(1 - np.arange(1, used + 1) / num)
    return float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])


@pytest.mark.parametrize(("num", "dim"), [(200, 3), (50, 60)])
def test_intrinsic_dimension_equals_scikit_learns_neighbours_and_numpys_fit(num: int, dim: int) -> None:
    features = noise(num, dim)
    assert intrinsic_dimension(features) == pytest.approx(numpy_two_nn(features), rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_uniform_cube_in_a_larger_space_has_about_its_own_dimension(dim: int) -> None:
    cube = torch.rand((2000, dim), generator=generator(dim), dtype=torch.float64)
    embedded = torch.cat([cube, torch.zeros(2000, 12 - dim)], dim=1) @ rotation(12)
    assert intrinsic_dimension(embedded) == pytest.approx(dim, rel=0.1)


def test_a_curved_sheet_has_two_dimensions() -> None:
    angle, height = 6 * torch.rand((2, 2000), generator=generator(), dtype=torch.float64)
    sheet = torch.stack([angle * angle.cos(), height, angle * angle.sin()], dim=1)
    assert intrinsic_dimension(sheet) == pytest.approx(2, rel=0.1)


def test_copies_of_inputs_count_once() -> None:
    features = noise(100, 4)
    assert intrinsic_dimension(features.repeat(3, 1)) == pytest.approx(intrinsic_dimension(features), rel=1e-9)
    nearly = torch.cat([features, features * (1 + 1e-8)])
    assert intrinsic_dimension(nearly) == pytest.approx(intrinsic_dimension(features), rel=1e-6)


def test_clid_is_learnability_plus_dimension_over_the_feature_size_or_the_given_unit() -> None:
    features = noise(100, 8)
    learnability, dimension = cluster_learnability(features, generator(2)), intrinsic_dimension(features)
    assert clid(features, generator(2)) == pytest.approx(learnability + dimension / 8)
    assert clid(features, generator(2), dimension_unit=20) == pytest.approx(learnability + dimension / 20)


@pytest.mark.parametrize(("first", "second"), [(2, 5), (7, 7), (1, 4), (1, 1), (60, 60)])
def test_adjusted_rand_equals_scikit_learns(first: int, second: int) -> None:
    one = torch.randint(first, (60,), generator=generator(1))
    other = torch.randint(second, (60,), generator=generator(2))
    mixed = torch.where(torch.arange(60) % 3 == 0, other, one)
    for a, b in ((one, other), (one, mixed), (mixed, one), (one, one)):
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a.numpy(), b.numpy()))


def test_clusterings_of_two_halves_agree_on_clear_groups_and_not_on_noise() -> None:
    clear, _ = groups(160, spread=0.02)
    assert cluster_stability(clear, generator(), num_clusters=8) == 1
    assert cluster_stability(noise(160, 20), generator(), num_clusters=8, num_draws=5) < 0.2


def test_stability_equals_scikit_learns_rand_index_of_the_same_two_clusterings() -> None:
    features = noise(90, 3)
    unit = centred_unit(features)
    rng = generator(6)
    order = torch.randperm(90, generator=rng)
    centres = [kmeans(unit[half], 5, rng).centres_KD for half in (order[:45], order[45:])]
    first, second = (torch.cdist(unit, centre).argmin(1).numpy() for centre in centres)
    measured = cluster_stability(features, generator(6), num_clusters=5)
    assert measured == pytest.approx(adjusted_rand_score(first, second))


@pytest.mark.parametrize("num_neighbours", [1, 7, 500])
def test_neighbour_overlap_equals_sets_of_scikit_learns_neighbours(num_neighbours: int) -> None:
    first, second = noise(50, 6), noise(50, 6) + 0.7 * noise(50, 6, seed=1)
    k = min(num_neighbours, 49)
    sets = [
        [set(row) for row in NearestNeighbors(n_neighbors=k, metric="cosine").fit(x).kneighbors(return_distance=False)]
        for x in ((part - part.mean(0)).numpy() for part in (first, second))
    ]
    expected = np.mean([len(a & b) / k for a, b in zip(*sets, strict=True)])
    assert neighbour_overlap(first, second, num_neighbours) == pytest.approx(expected)


def test_the_same_features_overlap_fully_and_unrelated_ones_by_chance() -> None:
    features = noise(300, 10)
    assert neighbour_overlap(features, 3 * features @ rotation(10) + 5) == pytest.approx(1, abs=0.01)
    assert neighbour_overlap(features, noise(300, 10, seed=1)) == pytest.approx(10 / 299, abs=0.01)


def test_rotation_offset_and_scale_change_no_cosine_measure() -> None:
    features, _ = groups(120, spread=0.4)
    changed = 3 * features @ rotation(20) + 10
    assert cluster_learnability(changed, generator(1)) == pytest.approx(cluster_learnability(features, generator(1)))
    assert cluster_stability(changed, generator(1)) == pytest.approx(cluster_stability(features, generator(1)))
    assert intrinsic_dimension(changed) == pytest.approx(intrinsic_dimension(features), rel=1e-6)


def test_features_that_do_not_vary_score_0() -> None:
    for value in (0.0, 0.3, 1e6):
        features = torch.full((40, 5), value) * (1 + 1e-8 * torch.randn((40, 5), generator=generator()))
        assert cluster_learnability(features, generator()) == 0
        assert cluster_stability(features, generator()) == 0
        assert intrinsic_dimension(features) == 0
        assert clid(features, generator()) == 0
        assert neighbour_overlap(features, noise(40, 5)) == 0 == neighbour_overlap(features, features)


def test_every_measure_is_finite_on_copies_and_on_very_few_inputs() -> None:
    for features in degenerate():
        scores = (
            cluster_learnability(features, generator()),
            cluster_stability(features, generator()),
            intrinsic_dimension(features),
            clid(features, generator()),
            neighbour_overlap(features, features),
        )
        assert all(math.isfinite(score) for score in scores)


def test_features_that_are_not_finite_give_nan() -> None:
    features = noise(20, 4)
    features[3, 2] = math.nan
    assert math.isnan(cluster_learnability(features, generator()))
    assert math.isnan(cluster_stability(features, generator()))
    assert math.isnan(intrinsic_dimension(features))
    assert math.isnan(clid(features, generator()))
    assert math.isnan(neighbour_overlap(features, noise(20, 4)))
