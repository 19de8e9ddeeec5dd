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


def test_of_known_sds_it_is_the_regression_of_the_textbook_with_a_free_intercept_for_each_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("EFFECTS", (0.6,)), ("NOISES", (0.4,)), ("OWN", (0.1,)), ("OUTLYING", 1e9)):
        monkeypatch.setattr(posterior, name, value)
    x, returns = episodes()
    gains = np.concatenate([row - row.mean() for row in returns])
    effect, noise = 0.6 * np.sqrt(np.mean(gains**2)), 0.4 * np.sqrt(np.mean(gains**2))
    rows, y = np.concatenate(x), np.concatenate(returns)
    luck = np.concatenate([np.eye(NUM_GROUPS)[[group] * len(part)] for group, part in enumerate(x)])
    covariance = effect**2 * rows @ rows.T + 1e4 * luck @ luck.T + noise**2 * np.eye(len(y))
    gain = effect**2 * rows.T @ np.linalg.inv(covariance)
    mean = effect * PRIOR + gain @ (y - rows @ (effect * PRIOR))
    sd = np.sqrt(np.diag(effect**2 * np.eye(NUM_EFFECTS) - gain @ rows * effect**2))
    found = draws(Posterior(x, returns, PRIOR))
    assert found.mean(axis=0) == pytest.approx(mean, abs=4 * sd.max() / np.sqrt(DRAWS))
    assert found.std(axis=0) == pytest.approx(sd, rel=0.02)


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
