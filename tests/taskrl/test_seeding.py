"""Named generators are stable, independent of each other and of the global ones."""

import hashlib
import random

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed

from taskrl.meta import MetaProblem
from taskrl.seeding import derive_seed, isolated_global_rng, numpy_generator, torch_generator
from taskrl.types import Budget
from tests.builders import same_tensors


def global_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state()  # noqa: NPY002 (what must stay as it was)
    return random.getstate(), str(numpy_state), torch.get_rng_state().tolist()


def test_a_seed_is_the_first_63_bits_of_a_hash_that_no_process_or_version_changes() -> None:
    assert derive_seed(0, "order") == 5231958647509549229
    assert derive_seed(3, "views", 7) == int(hashlib.sha256(b"3/views/7").hexdigest()[:16], 16) // 2


def test_seeds_of_different_names_paths_and_seeds_differ_and_fit_63_bits() -> None:
    paths = [(seed, name, index) for seed in range(20) for name in ("order", "views", "1") for index in range(20)]
    seeds = {derive_seed(seed, name, index) for seed, name, index in paths}
    assert len(seeds) == len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_same_name_same_numbers_and_another_name_others() -> None:
    first, again, other = (torch.rand(5, generator=torch_generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(first, again) and not torch.equal(first, other)
    draws = [numpy_generator(0, name).random(5).tolist() for name in ("a", "a", "b")]
    assert draws[0] == draws[1] != draws[2]


def test_reseeding_the_global_generators_does_not_change_named_ones() -> None:
    torch_rng, numpy_rng = torch_generator(0, "a"), numpy_generator(0, "a")
    expected = torch.rand(6, generator=torch_generator(0, "a")), numpy_generator(0, "a").random(6)
    drawn = []
    for seed in (1, 2, 3):
        set_random_seed(seed)
        drawn.append((torch.rand(2, generator=torch_rng), numpy_rng.random(2)))
    assert torch.equal(torch.cat([part for part, _ in drawn]), expected[0])
    assert np.concatenate([part for _, part in drawn]).tolist() == expected[1].tolist()


def test_named_generators_leave_the_global_ones_alone() -> None:
    before = global_state()
    torch.rand(5, generator=torch_generator(0, "a"))
    numpy_generator(0, "a").random(5)
    assert global_state() == before


def test_isolated_code_draws_from_its_seed_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (5, 5, 6):
        with isolated_global_rng(seed):
            drawn.append(torch.rand(3))
        torch.rand(1)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.set_rng_state(before)

    def draw_and_fail() -> None:
        with isolated_global_rng(0):
            torch.rand(3)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)


def run_a_decision(problem: MetaProblem, reseed: int) -> object:
    set_random_seed(reseed)
    before = global_state()
    predictor = problem.make_predictor(11)
    batches = problem.stream.batches(torch_generator(11, "order"))
    task = problem.build_task(problem.task_space.recipe("masked=1,noise=0.1,cutout=0.2,blur=0.5"))
    budget = Budget(flops=3 * problem.reference_step_flops, start=0.0, end=0.5)
    report = problem.inner_loop.adapt(predictor, task, batches, torch_generator(11, "views"), budget)
    predictor.recalibrate(problem.calibration)
    problem.probe(predictor.encode, problem.probe_data)
    assert global_state() == before
    return dict(predictor.nets.state_dict()), report.losses


def test_a_decision_neither_reads_nor_moves_the_global_generators(tiny_problem: MetaProblem) -> None:
    (weights, losses), (other_weights, other_losses) = (run_a_decision(tiny_problem, seed) for seed in (1, 2))  # type: ignore[misc]
    assert same_tensors(weights, other_weights) and losses == other_losses
