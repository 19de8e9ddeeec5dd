"""Signal and noise of made-up gains whose standard deviations are known."""

import math

import numpy as np
import pytest

from taskrl.evaluation.noise import noise_of, reward_scale


def gains(num_actions: int, num_draws: int, *, signal: float, noise: float, shared: float = 0.0) -> list[list[float]]:
    """Actions with sd `signal`, chance with sd `noise`, and chance that all actions share with sd `shared`."""
    rng = np.random.default_rng(0)
    means, draws = signal * rng.normal(size=(num_actions, 1)), shared * rng.normal(size=(1, num_draws))
    table: list[list[float]] = (means + draws + noise * rng.normal(size=(num_actions, num_draws))).tolist()
    return table


def test_the_sds_of_a_small_table_by_hand() -> None:
    """Means 1 and 5, variance between them 8; every draw 1 off its mean: residual 0, A/A variance 2."""
    found = noise_of([[0.0, 2.0], [4.0, 6.0]])
    assert (found.aa_sd, found.paired_sd, found.signal_sd) == pytest.approx((math.sqrt(2), 0.0, math.sqrt(8)))
    crossed = noise_of([[0.0, 2.0], [6.0, 4.0]])
    assert (crossed.aa_sd, crossed.paired_sd, crossed.signal_sd) == pytest.approx(
        (math.sqrt(2), 2.0, math.sqrt(8 - 4 / 2))
    )


@pytest.mark.parametrize(("signal", "noise", "shared"), [(0.02, 0.01, 0.0), (0.02, 0.01, 0.03), (0.0, 0.01, 0.0)])
def test_known_sds_are_found(signal: float, noise: float, shared: float) -> None:
    found = noise_of(gains(2000, 60, signal=signal, noise=noise, shared=shared))
    assert found.paired_sd == pytest.approx(noise, rel=0.05)
    assert found.signal_sd == pytest.approx(signal, rel=0.05, abs=0.001)
    assert found.aa_sd == pytest.approx(math.hypot(noise, shared), rel=0.2)
    assert found.signal_to_noise == pytest.approx(found.signal_sd / found.aa_sd)


def test_chance_alone_is_not_taken_for_signal() -> None:
    """Means of two draws differ by chance; uncorrected, they would show a ratio of 0.7."""
    found = [noise_of(np.random.default_rng(seed).normal(size=(7, 2)).tolist()) for seed in range(100)]
    assert np.median([noise.signal_to_noise for noise in found]) < 0.3
    assert np.mean([noise.ratio_low > 0 for noise in found]) < 0.06


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_the_interval_of_the_ratio_holds_the_truth(ratio: float) -> None:
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        table = ratio * rng.normal(size=(7, 1)) + rng.normal(size=(7, 2))
        noise = noise_of(table.tolist())
        assert noise.ratio_low <= noise.signal_to_noise <= noise.ratio_high
        held.append(noise.ratio_low <= ratio <= noise.ratio_high)
    assert np.mean(held) >= 0.9


def test_extra_draws_of_the_first_action_count_for_the_aa_test() -> None:
    found = noise_of([[0.0, 2.0, 10.0], [4.0, 6.0]])
    assert found.signal_sd == noise_of([[0.0, 2.0], [4.0, 6.0]]).signal_sd
    assert found.aa_sd == pytest.approx(math.sqrt((16 + 4 + 36 + 1 + 1) / 3))


def test_no_chance_is_an_infinite_ratio_and_nothing_at_all_is_none() -> None:
    assert noise_of([[1.0, 1.0], [2.0, 2.0]]).signal_to_noise == math.inf
    assert noise_of([[1.0, 1.0], [1.0, 1.0]]).signal_to_noise == 0


@pytest.mark.parametrize("table", [[], [[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 2.0], [1.0]]])
def test_too_few_gains_are_refused(table: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="at least two of both"):
        noise_of(table)


@pytest.mark.parametrize(
    ("aa_sd", "scale"), [(0.01, 1.0), (0.0204, 0.49), (0.0001, 100.0), (0.0, 1.0), (math.nan, 1.0), (math.inf, 1.0)]
)
def test_the_scale_makes_chance_move_a_reward_by_a_hundredth(aa_sd: float, scale: float) -> None:
    assert reward_scale(aa_sd) == scale
