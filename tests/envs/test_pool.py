"""Promises of the pool: every failure of a worker is named in time, and nothing is left behind.

Two pools serve all the tests: spawning one takes seconds.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from envs.pool import ProcessPool, SerialPool, WorkerSetup, open_pool
from taskrl.assemble import load_data
from taskrl.errors import DataError, WorkerError
from tests.agents.lockstep import actions, rollout, vector
from tests.envs import pool_jobs
from tests.envs.tiny import play, random_actions, tiny_config, tiny_env

DEADLINE_S = 3.0


def setup() -> WorkerSetup:
    config = tiny_config()
    return WorkerSetup(config, load_data(config), "multidiscrete")


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPool]:
    """Two workers that are well throughout."""
    pool = ProcessPool(setup(), num_workers=2, deadline_s=60)
    yield pool
    pool.close()


def test_one_worker_is_this_process_and_several_are_not(pool: ProcessPool) -> None:
    serial = open_pool(setup(), num_workers=1, deadline_s=60)
    assert isinstance(serial, SerialPool)
    assert serial.num_workers == 1 and pool.num_workers == 2
    pids = {pid for _, pid in pool.map(pool_jobs.process_id, [(), ()])}
    ((_, own),) = serial.map(pool_jobs.process_id, [()])
    assert own not in pids


def test_two_fresh_processes_play_the_same_bits_as_this_one(pool: ProcessPool) -> None:
    env = tiny_env()
    actions = random_actions(env, 2, seed=1)
    here = play(env, actions, seed=5)
    for worker in range(2):
        pool.call(worker, "reset", 7, 5)
        observations, infos = [pool.result(worker)[0]], [here["infos"][0]]
        rewards = []
        for action in actions:
            pool.call(worker, "step", 7, action)
            observation, reward, _, _, info, timings = pool.result(worker)
            observations.append(observation)
            rewards.append(reward)
            infos.append(info)
            assert set(timings) == {"train_s", "measure_s"}
        assert np.array_equal(np.stack(observations), here["observations"])
        assert rewards == here["rewards"]
        assert infos == here["infos"]


def test_lockstep_rollouts_are_the_same_bits_with_one_and_two_workers(pool: ProcessPool) -> None:
    one = SerialPool(setup())
    first, second = (rollout(vector(workers), actions(5)) for workers in (one, pool))
    np.testing.assert_equal(first, second)


def test_map_gives_every_job_once_and_keeps_the_free_worker_busy(pool: ProcessPool) -> None:
    results = list(pool.map(pool_jobs.number_of_knobs, [(offset,) for offset in range(5)]))
    knobs = len(tiny_env().problem.task_space.knobs)
    assert sorted(results) == [(index, knobs + index) for index in range(5)]
    order = [index for index, _ in pool.map(pool_jobs.slow_then_fast, [(index,) for index in range(4)])]
    assert order[-1] == 0, "the others must not wait for the slow one"
    assert list(pool.map(pool_jobs.process_id, [])) == []


def test_a_worker_that_raises_is_named_with_its_traceback_and_goes_on(pool: ProcessPool) -> None:
    pool.call(1, "run", pool_jobs.fail)
    with pytest.raises(WorkerError, match=r"(?s)Worker 1 failed.*in fail.*ZeroDivisionError: the job divides"):
        pool.result(1)
    pool.call(1, "run", pool_jobs.number_of_knobs, 0)
    assert pool.result(1) > 0


def test_a_user_error_crosses_over_as_the_same_sentence(pool: ProcessPool) -> None:
    pool.call(0, "run", pool_jobs.fail_politely)
    with pytest.raises(DataError, match=r"^The data are no good; use others\.$"):
        pool.result(0)


def test_a_result_that_cannot_be_sent_is_named(pool: ProcessPool) -> None:
    pool.call(0, "run", pool_jobs.answer_with_a_lambda)
    with pytest.raises(WorkerError, match="Worker 0 failed"):
        pool.result(0)
    pool.call(0, "run", pool_jobs.number_of_knobs, 0)
    assert pool.result(0) > 0


def test_closing_does_not_wait_for_a_hung_worker(pool: ProcessPool) -> None:
    pids = [pid for _, pid in pool.map(pool_jobs.process_id, [(), ()])]
    pool.call(1, "run", pool_jobs.hang)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10
    assert not [pid for pid in pids if pool_jobs.is_alive(pid)]
    pool.close()


def test_killed_and_hung_workers_are_named_in_time_and_none_is_left_behind() -> None:
    pool = ProcessPool(setup(), num_workers=3, deadline_s=DEADLINE_S)
    for worker in range(3):
        pool.call(worker, "run", pool_jobs.process_id)
    pids = [pool.result(worker) for worker in range(3)]
    assert all(pool_jobs.is_alive(pid) for pid in pids)

    started, done = time.monotonic(), []
    results = pool.map(pool_jobs.hang_unless_last, [(index,) for index in range(4)])
    with pytest.raises(WorkerError, match="Worker 0 did not finish its job within 3 s"):
        done.extend(results)
    assert time.monotonic() - started < DEADLINE_S + 2

    assert sorted(index for index, _ in done) == [1, 2, 3]

    pool.call(1, "run", pool_jobs.die)
    with pytest.raises(WorkerError, match="Worker 1 was killed by signal 9"):
        pool.result(1)
    with pytest.raises(WorkerError, match="Worker 1 was killed by signal 9"):
        _ask_twice(pool, 1)

    started = time.monotonic()
    pool.call(2, "run", pool_jobs.hang)
    with pytest.raises(WorkerError, match=r"Worker 2 gave no answer within 3 s.*worker_deadline_s"):
        pool.result(2)
    assert time.monotonic() - started < DEADLINE_S + 2

    pool.close()
    assert not [pid for pid in pids if pool_jobs.is_alive(pid)]


def _ask_twice(pool: ProcessPool, worker: int) -> None:
    """The first message may still fit into the broken pipe."""
    for _ in range(2):
        pool.call(worker, "run", pool_jobs.process_id)
        pool.result(worker)
