"""Promises of the posterior over effects: textbook formulas, no faith in luck or repetition, doubt by data."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agents import posterior
from agents.posterior import Posterior

NUM_EFFECTS, NUM_GROUPS, SIZE = 5, 6, 8
EFFECTS = np.array([0.06, -0.04, 0.0, 0.03, -0.02])
NOISE = 0.02
PRIOR = np.full(NUM_EFFECTS, -0.5)
DRAWS = 40_000

Groups = list[NDArray[np.float64]]


def episodes(seed: int = 0, noise: float = NOISE, groups: int = NUM_GROUPS) -> tuple[Groups, Groups]:
    """Which of five levels were played, the reference first, and the returns."""
    rng = np.random.default_rng(seed)
    x = [np.vstack([np.zeros(NUM_EFFECTS), rng.integers(0, 2, (SIZE - 1, NUM_EFFECTS))]) for _ in range(groups)]
    x = [np.unique(rows, axis=0).astype(np.float64) for rows in x]
    return x, [rng.normal(0.2, 0.05) + rows @ EFFECTS + rng.normal(0, noise, len(rows)) for rows in x]


def draws(found: Posterior, **how: float) -> NDArray[np.float64]:
    return found.samples(np.random.default_rng(1), DRAWS, **how)


def dense(
    x: Groups, returns: Groups, tasks: NDArray[np.float64], *, effect: float, noise: float, own: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean and covariance of the effects and of what tasks are worth beyond them, and the log evidence: the formulas of
    the textbook with a free intercept for each group. Sds in units of the returns' root mean square, `own` of effects.
    """
    scale = np.sqrt(np.mean(np.concatenate([row - row.mean() for row in returns]) ** 2))
    own, effect, noise = own * effect * scale, effect * scale, noise * scale
    played = [[(row == task).all() for task in tasks] for row in np.concatenate(x)]
    rows = np.column_stack([np.concatenate(x), np.array(played, dtype=float).reshape(len(played), len(tasks))])
    sd = np.array([effect] * NUM_EFFECTS + [own] * len(tasks))
    prior = np.concatenate([effect * PRIOR, np.zeros(len(tasks))])
    luck = np.concatenate([np.eye(len(x))[[group] * len(part)] for group, part in enumerate(x)])
    covariance = (rows * sd**2) @ rows.T + 100 * luck @ luck.T + noise**2 * np.eye(len(rows))
    residual = np.concatenate(returns) - rows @ prior
    gain = sd[:, None] ** 2 * rows.T @ np.linalg.inv(covariance)
    evidence = -0.5 * (residual @ np.linalg.solve(covariance, residual) + np.linalg.slogdet(covariance)[1])
    return prior + gain @ residual, np.diag(sd**2) - gain @ rows * sd**2, float(evidence)


def sds_are(monkeypatch: pytest.MonkeyPatch, **values: tuple[float, ...]) -> None:
    for name, value in values.items():
        monkeypatch.setattr(posterior, name, value)
    monkeypatch.setattr(posterior, "OUTLYING", 1e9)


def test_of_known_sds_it_is_the_regression_of_the_textbook(monkeypatch: pytest.MonkeyPatch) -> None:
    sds_are(monkeypatch, EFFECTS=(0.6,), NOISES=(0.4,), OWN=(0.5,))
    x, returns = episodes()
    tasks = np.stack([np.zeros(NUM_EFFECTS), x[0][3]])
    mean, covariance, _ = dense(x, returns, tasks, effect=0.6, noise=0.4, own=0.5)
    found = Posterior(x, returns, PRIOR, tasks)
    sd = np.sqrt(np.diag(covariance))[:NUM_EFFECTS]
    assert draws(found).mean(axis=0) == pytest.approx(mean[:NUM_EFFECTS], abs=4 * sd.max() / np.sqrt(DRAWS))
    assert draws(found).std(axis=0) == pytest.approx(sd, rel=0.02)
    lead = np.concatenate([tasks[1] - tasks[0], [-1.0, 1.0]])
    values = found.values(np.random.default_rng(2), DRAWS)
    sd_of_lead = np.sqrt(lead @ covariance @ lead)
    assert np.mean(values[:, 1] - values[:, 0]) == pytest.approx(lead @ mean, abs=4 * sd_of_lead / np.sqrt(DRAWS))
    assert np.std(values[:, 1] - values[:, 0]) == pytest.approx(sd_of_lead, rel=0.02)


@pytest.mark.parametrize(("effects", "noises"), [((0.3, 1.2), (0.8,)), ((0.6,), (0.8, 1.0)), ((0.3, 1.2), (0.8, 1.0))])
def test_sds_count_as_much_as_they_explain_the_returns(
    monkeypatch: pytest.MonkeyPatch, effects: tuple[float, ...], noises: tuple[float, ...]
) -> None:
    sds_are(monkeypatch, EFFECTS=effects, NOISES=noises, OWN=(0.1,))
    x, returns = episodes(groups=3, noise=0.06)
    none = np.zeros((0, NUM_EFFECTS))
    choices = [(effect, noise) for effect in posterior.EFFECTS for noise in posterior.NOISES]
    parts = [dense(x, returns, none, effect=effect, noise=noise, own=0.1) for effect, noise in choices]
    weights = np.exp([evidence - max(part[2] for part in parts) for _, _, evidence in parts])
    weights /= weights.sum()
    assert 0.1 < weights.max() < 0.9, "nothing to weigh"
    mean = sum(weight * part[0] for weight, part in zip(weights, parts, strict=True))
    spread = max(np.sqrt(np.diag(part[1])).max() for part in parts) + np.ptp([part[0] for part in parts], axis=0).max()
    assert draws(Posterior(x, returns, PRIOR)).mean(axis=0) == pytest.approx(mean, abs=4 * spread / np.sqrt(DRAWS))


def test_effects_are_found_and_more_groups_leave_less_doubt() -> None:
    few, many = (draws(Posterior(*episodes(groups=groups), PRIOR)) for groups in (3, 30))
    assert np.abs(many.mean(axis=0) - EFFECTS).max() < 0.01
    assert many.std(axis=0).max() < 0.5 * few.std(axis=0).max()


def test_returns_that_are_mostly_chance_leave_more_doubt() -> None:
    sure, unsure = (draws(Posterior(*episodes(noise=noise), PRIOR)).std(axis=0).mean() for noise in (0.005, 0.08))
    assert sure < 0.3 * unsure


def test_the_luck_of_a_group_says_nothing() -> None:
    x, returns = episodes()
    lucky = [row + 10.0 * group for group, row in enumerate(returns)]
    assert draws(Posterior(x, lucky, PRIOR)) == pytest.approx(draws(Posterior(x, returns, PRIOR)), abs=1e-9)


def test_the_same_episode_again_in_its_group_is_no_second_observation() -> None:
    x, returns = episodes()
    again = [np.vstack([rows, rows[:3]]) for rows in x], [np.append(row, row[:3]) for row in returns]
    assert draws(Posterior(*again, PRIOR)) == pytest.approx(draws(Posterior(x, returns, PRIOR)), abs=1e-9)


def test_one_ruined_episode_hides_nothing_else() -> None:
    x, returns = episodes(groups=12)
    returns[3][5] = -50.0
    found = draws(Posterior(x, returns, PRIOR)).mean(axis=0)
    assert found[0] > 0.03 and found[1] < -0.01


def test_before_anything_was_played_it_is_the_prior() -> None:
    found = draws(Posterior([], [], PRIOR))
    assert (found.mean(axis=0) / found.std(axis=0)) == pytest.approx(PRIOR, abs=0.2)
    reference_alone = draws(Posterior([np.zeros((1, NUM_EFFECTS))], [np.array([0.2])], PRIOR))
    assert np.isfinite(reference_alone).all()


def test_width_spreads_the_draws() -> None:
    found = Posterior(*episodes(), PRIOR)
    narrow, wide = draws(found, width=0.5), draws(found, width=2.0)
    assert (narrow.std(axis=0) < wide.std(axis=0)).all()
    assert narrow.mean(axis=0) == pytest.approx(wide.mean(axis=0), abs=0.002)


def test_a_task_that_is_worth_less_than_its_levels_is_valued_by_what_it_returned() -> None:
    x, returns = episodes(groups=20)
    task = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    for group, rows in enumerate(x):
        x[group] = np.vstack([rows[(rows != task).any(axis=1)], task])
        kept = returns[group][(rows != task).any(axis=1)]
        returns[group] = np.append(kept, kept[0] - 0.03)  # 0.09 by its levels
    tasks = np.stack([np.zeros(NUM_EFFECTS), task])
    values = Posterior(x, returns, PRIOR, tasks).values(np.random.default_rng(0), DRAWS)
    beyond = draws(Posterior(x, returns, PRIOR)) @ task
    assert np.mean(values[:, 1] - values[:, 0]) < beyond.mean() - 0.02
