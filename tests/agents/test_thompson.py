"""Promises of linear Thompson sampling: the posterior in closed form, and a prior that is the agents'."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from agents.searches.playing import prior_probabilities
from agents.searches.thompson import LinearThompson, TaskFeatures, log_evidence
from taskrl.seeding import numpy_generator
from taskrl.tasks.space import Knob, TaskSpace
from tests.agents.learning import space_for
from tests.envs.tiny import tiny_config

NUM, SIZE, NOISE = 30, 4, 0.5
MEAN, SD = np.array([0.5, -1.0, 0.0, 2.0]), np.array([1.0, 0.5, 2.0, 0.1])


def observations(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = numpy_generator(seed, "observations")
    x = rng.normal(size=(NUM, SIZE))
    return x, x @ rng.normal(size=SIZE) + rng.normal(0, NOISE, NUM)


def conditioned(x: np.ndarray, gain: np.ndarray, noise_variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the weights given the gains, by conditioning their joint Gaussian."""
    prior = np.diag(SD**2)
    joint = x @ prior @ x.T + np.diag(noise_variances)
    pull = prior @ x.T @ np.linalg.inv(joint)
    return MEAN + pull @ (gain - x @ MEAN), prior - pull @ x @ prior


def test_the_posterior_is_bayesian_linear_regression() -> None:
    x, gain = observations()
    model = LinearThompson(MEAN, SD, noise_sd=NOISE)
    np.testing.assert_allclose(model.mean, MEAN)
    np.testing.assert_allclose(model.covariance, np.diag(SD**2))
    for row, value in zip(x, gain, strict=True):
        model.update(row, value)
    mean, covariance = conditioned(x, gain, np.full(NUM, NOISE**2))
    np.testing.assert_allclose(model.mean, mean)
    np.testing.assert_allclose(model.covariance, covariance, atol=1e-12)


def test_several_observations_at_once_are_the_same_as_one_by_one() -> None:
    x, gain = observations()
    once, one_by_one = (LinearThompson(MEAN, SD, noise_sd=NOISE) for _ in range(2))
    once.update(x, gain)
    for row, value in zip(x, gain, strict=True):
        one_by_one.update(row, value)
    np.testing.assert_allclose(once.mean, one_by_one.mean)
    np.testing.assert_allclose(once.covariance, one_by_one.covariance)


def test_forgetting_makes_old_observations_noisier_and_never_fades_the_prior() -> None:
    x, gain = observations()
    model = LinearThompson(MEAN, SD, noise_sd=NOISE, forgetting=0.8)
    for row, value in zip(x, gain, strict=True):
        model.update(row, value)
    ages = np.arange(NUM)[::-1]
    mean, covariance = conditioned(x, gain, NOISE**2 / 0.8**ages)
    np.testing.assert_allclose(model.mean, mean)
    np.testing.assert_allclose(model.covariance, covariance, atol=1e-12)
    for _ in range(300):
        model.update(np.zeros(SIZE), 0.0)
    np.testing.assert_allclose(model.mean, MEAN, atol=1e-9)


def test_an_effect_that_turns_round_is_followed() -> None:
    model = LinearThompson(np.zeros(1), np.ones(1), noise_sd=0.1, forgetting=0.9)
    for sign in (1.0, -1.0):
        for _ in range(40):
            model.update(np.ones(1), sign)
        assert model.mean[0] == pytest.approx(sign, abs=0.05)


def test_samples_follow_the_posterior() -> None:
    x, gain = observations()
    model = LinearThompson(MEAN, SD, noise_sd=NOISE)
    model.update(x[:3], gain[:3])
    rng = numpy_generator(0, "samples")
    draws = np.stack([model.sample(rng) for _ in range(20_000)])
    np.testing.assert_allclose(draws.mean(axis=0), model.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), model.covariance, atol=0.08)


def test_the_evidence_is_the_density_of_the_gains() -> None:
    x, gain = observations()
    joint = (x * SD**2) @ x.T + NOISE**2 * np.eye(NUM)
    expected = multivariate_normal(x @ MEAN, joint).logpdf(gain)
    assert log_evidence(x, gain, MEAN, SD, noise_sd=NOISE) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"noise_sd": 0.0}, {"noise_sd": 1.0, "forgetting": 0.0}, {"prior_sd": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    arguments = {"prior_sd": 1.0, "noise_sd": 1.0} | wrong
    prior_sd = np.full(2, arguments.pop("prior_sd"))
    with pytest.raises(ValueError, match="above 0"):
        LinearThompson(np.zeros(2), prior_sd, **arguments)


def small_space() -> TaskSpace:
    knobs = (
        Knob(name="a", levels=(0.0, 1.0), reference=1, logit=1.0),
        Knob(name="b", levels=(0.0, 1.0, 2.0, 3.0), reference=2, logit=1.5, allowed=(True, True, True, False)),
        Knob(name="c", levels=(0.0, 1.0, 2.0), reference=0, logit=0.0),
    )
    return TaskSpace(objectives=["x", "y"], knobs=knobs)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_the_best_tasks_of_the_prior_are_the_agents_prior(strength: float) -> None:
    space = small_space()
    features = TaskFeatures(space, strength)
    model = LinearThompson(features.prior_mean, np.ones_like(features.prior_mean), noise_sd=1.0)
    rng = numpy_generator(0, "prior draws")
    draws = np.array([space.level_indices(features.best(model.sample(rng), 0.5)) for _ in range(4000)])
    for column, expected in list(zip(draws.T, prior_probabilities(space, strength), strict=True))[2:]:
        shares = np.bincount(column, minlength=len(expected)) / len(draws)
        np.testing.assert_allclose(shares, expected, atol=0.03)


def test_the_reference_is_the_zero_vector_and_others_are_not() -> None:
    space = space_for(tiny_config(), "multidiscrete")
    features = TaskFeatures(space, 1.0)
    for progress in (0.0, 0.3, 1.0):
        assert not features.of(space.reference, progress).any()
        rows = features.rows(space.deviations, [progress] * len(space.deviations))
        assert (rows != 0).any(axis=1).all()
        assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_the_best_task_is_the_best_of_all(progress: float) -> None:
    space = TaskSpace(objectives=["x"], knobs=small_space().knobs)
    features = TaskFeatures(space, 1.0)
    every = [space.decode(np.array(levels)) for levels in np.ndindex(2, 3, 3)]
    rng = numpy_generator(0, "weights")
    for _ in range(50):
        weights = rng.normal(size=len(features.prior_mean))
        values = [float(weights @ features.of(spec, progress)) for spec in every]
        assert features.best(weights, progress) == every[int(np.argmax(values))]
