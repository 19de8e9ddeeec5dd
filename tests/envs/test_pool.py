"""Promises of the pool: every failure of a worker is named in time, lost workers are replaced where they were, and
nothing is left behind.

Few pools serve all the tests: spawning one takes seconds.
"""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from envs.host import RESULT, EnvHost, Request, Stepped, WorkerSetup
from envs.pool import SerialPool, WorkerPool
from envs.processes import Processes
from envs.workers import open_pool
from taskrl.assemble import load_data
from taskrl.errors import DataError, WorkerError
from tests.agents.lockstep import actions, rollout, vector
from tests.envs import pool_jobs
from tests.envs.tiny import play, random_actions, tiny_config, tiny_env

DEADLINE_S = 3.0


def setup(**changes: object) -> WorkerSetup:
    config = tiny_config(**changes)
    return WorkerSetup(config, load_data(config), "multidiscrete")


@dataclass
class Watched:
    """A pool and the sentences that it warned with."""

    pool: WorkerPool
    warnings: list[str] = field(default_factory=list)

    def pids(self) -> list[int]:
        for worker in range(self.pool.num_workers):
            self.pool.call(worker, "run", pool_jobs.process_id)
        return [self.pool.result(worker) for worker in range(self.pool.num_workers)]


def watched(num_workers: int, deadline_s: float) -> Watched:
    warnings: list[str] = []
    transport = Processes(setup(), num_workers)
    return Watched(WorkerPool(transport, deadline_s=deadline_s, warn=warnings.append), warnings)


@pytest.fixture(scope="module")
def well() -> Iterator[Watched]:
    """Two workers with time enough."""
    pair = watched(2, 60)
    yield pair
    pair.pool.close()


@pytest.fixture(scope="module")
def pool(well: Watched) -> WorkerPool:
    return well.pool


def test_one_worker_is_this_process_and_several_are_not(pool: WorkerPool) -> None:
    serial = open_pool(setup(), warn=pytest.fail)
    assert isinstance(serial, SerialPool)
    assert serial.num_workers == 1 and pool.num_workers == 2
    pids = {pid for _, pid in pool.map(pool_jobs.process_id, [(), ()])}
    ((_, own),) = serial.map(pool_jobs.process_id, [()])
    assert own not in pids


def test_two_fresh_processes_play_the_same_bits_as_this_one(pool: WorkerPool) -> None:
    env = tiny_env()
    chosen = random_actions(env, 2, seed=1)
    here = play(env, chosen, seed=5)
    for worker in range(2):
        pool.call(worker, "reset", 7, 5)
        observations, infos = [pool.result(worker)[0]], [here["infos"][0]]
        rewards = []
        for index, action in enumerate(chosen):
            pool.call(worker, "step", 7, index, action)
            answer: Stepped = pool.result(worker)
            observation, reward, _, _, info = answer.values
            observations.append(observation)
            rewards.append(reward)
            infos.append(info)
            assert set(answer.timings) == {"train_s", "measure_s"}
        assert np.array_equal(np.stack(observations), here["observations"])
        assert rewards == here["rewards"]
        assert infos == here["infos"]


def test_lockstep_rollouts_are_the_same_bits_with_one_and_two_workers(pool: WorkerPool) -> None:
    one = SerialPool(setup())
    first, second = (rollout(vector(workers), actions(5)) for workers in (one, pool))
    np.testing.assert_equal(first, second)


def test_a_killed_worker_is_replaced_where_it_was_and_no_bit_changes(well: Watched) -> None:
    before = len(well.warnings)
    calm = rollout(vector(SerialPool(setup())), actions(4))

    environment = vector(well.pool)
    rows = actions(4)
    steps = [environment.reset()]
    for index, row in enumerate(rows):
        if index in (1, 3):  # in the middle of an episode, and at the end of the next one
            os.kill(well.pids()[index % 2], signal.SIGKILL)
        observations, rewards, dones, infos = environment.step(row)
        for info in infos:
            info.pop("timings")
        steps.append((observations, rewards, dones, infos))

    np.testing.assert_equal(steps, calm)
    assert [text.split(";")[0] for text in well.warnings[before:]] == ["Worker 1 was killed by signal 9"] * 2


def test_map_gives_every_job_once_and_keeps_the_free_worker_busy(pool: WorkerPool) -> None:
    results = list(pool.map(pool_jobs.number_of_knobs, [(offset,) for offset in range(5)]))
    knobs = len(tiny_env().problem.task_space.knobs)
    assert sorted(results) == [(index, knobs + index) for index in range(5)]
    order = [index for index, _ in pool.map(pool_jobs.slow_then_fast, [(index,) for index in range(4)])]
    assert order[-1] == 0, "the others must not wait for the slow one"
    assert list(pool.map(pool_jobs.process_id, [])) == []


def test_a_worker_that_raises_is_named_with_its_traceback_and_goes_on(pool: WorkerPool) -> None:
    pool.call(1, "run", pool_jobs.fail)
    with pytest.raises(WorkerError, match=r"(?s)Worker 1 failed.*in fail.*ZeroDivisionError: the job divides"):
        pool.result(1)
    pool.call(1, "run", pool_jobs.number_of_knobs, 0)
    assert pool.result(1) > 0


def test_a_user_error_crosses_over_as_the_same_sentence(pool: WorkerPool) -> None:
    pool.call(0, "run", pool_jobs.fail_politely)
    with pytest.raises(DataError, match=r"^The data are no good; use others\.$"):
        pool.result(0)


def test_a_result_that_cannot_be_sent_is_named(pool: WorkerPool) -> None:
    pool.call(0, "run", pool_jobs.answer_with_a_lambda)
    with pytest.raises(WorkerError, match="Worker 0 failed"):
        pool.result(0)
    pool.call(0, "run", pool_jobs.number_of_knobs, 0)
    assert pool.result(0) > 0


def test_a_worker_that_is_killed_in_the_middle_of_an_answer_is_replaced(well: Watched, tmp_path: Path) -> None:
    well.pids()  # nobody is busy
    well.pool.call(0, "run", pool_jobs.die_while_answering, str(tmp_path / "died"))
    while not (tmp_path / "died").is_file():
        time.sleep(0.05)
    time.sleep(1.0)  # the pipe is full, and the worker dies waiting for a reader
    assert len(well.pool.result(0)) == pool_jobs.LONG_ANSWER
    assert well.warnings.pop().startswith("Worker 0 was killed by signal 9;")


def test_closing_does_not_wait_for_a_hung_worker(well: Watched) -> None:
    pids = well.pids()
    well.pool.call(1, "run", pool_jobs.hang)
    started = time.monotonic()
    well.pool.close()
    assert time.monotonic() - started < 10
    assert not [pid for pid in pids if pool_jobs.is_alive(pid)]
    well.pool.close()


def test_killed_and_hung_workers_are_named_in_time_and_none_is_left_behind() -> None:
    three = watched(3, DEADLINE_S)
    pool, pids = three.pool, three.pids()
    assert all(pool_jobs.is_alive(pid) for pid in pids)

    started, done = time.monotonic(), []
    results = pool.map(pool_jobs.hang_at_first, [(index, os.getpid()) for index in range(4)])
    done.extend(results)
    assert sorted(done) == [(index, index) for index in range(4)], "the hung one was replaced and did its job"
    assert DEADLINE_S < time.monotonic() - started < DEADLINE_S + 15
    assert three.warnings.pop() == (
        "Worker 0 gave no answer within 3 s and was stopped; a new worker goes on from its last snapshots."
    )

    pids += three.pids()
    pool.call(1, "run", pool_jobs.die)
    with pytest.raises(WorkerError, match=r"Worker 1 was killed by signal 9, 2 times over the same call; if memory"):
        pool.result(1)
    assert three.warnings.pop().startswith("Worker 1 was killed by signal 9;")

    pids += three.pids()
    assert not three.warnings, "the worker whose call was given up is well again"
    pool.close()
    assert not [pid for pid in pids if pool_jobs.is_alive(pid)]


class Slow:
    """A transport whose workers live and take `seconds` for each answer."""

    num_workers = 1

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._sent: deque[float] = deque()

    def start(self, worker: int) -> None:
        self._sent.clear()

    def send(self, worker: int, request: Request) -> None:
        self._sent.append(time.monotonic())

    def wait(self, workers: Sequence[int], timeout_s: float) -> list[int]:
        left_s = self._sent[0] + self.seconds - time.monotonic()
        time.sleep(max(0.0, min(left_s, timeout_s)))
        return list(workers) if left_s <= timeout_s else []

    def receive(self, worker: int) -> tuple[str, str]:
        self._sent.popleft()
        return RESULT, "an answer"

    def kill(self, worker: int) -> None:
        return

    def close(self) -> None:
        return


def test_a_job_gets_as_many_times_the_deadline_as_it_trains_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.pool.START_DEADLINE_S", 0.0)
    monkeypatch.setattr("envs.workers.Processes", lambda setup, num_workers: Slow(seconds=0.3))
    many = setup(workers=2, worker_deadline_s=0.05)
    decision = many.config.episode.steps_per_decision
    pool = open_pool(many, warn=lambda sentence: None, job_steps=100 * decision)
    assert list(pool.map(pool_jobs.process_id, [()])) == [(0, "an answer")]
    pool.call(0, "step", 7, 0, None)
    with pytest.raises(
        WorkerError, match=r"within 0\.05 s .*raise worker_deadline_s \(for taskrl resume in the config"
    ):
        pool.result(0)


def test_a_job_may_take_longer_than_the_system_can_wait_for_at_once() -> None:
    months = open_pool(setup(workers=2), warn=pytest.fail, job_steps=10**9)
    try:
        assert len(list(months.map(pool_jobs.process_id, [(), ()]))) == 2
    finally:
        months.close()


def test_a_worker_at_work_ends_when_its_parent_is_killed() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=pool_jobs.keep_a_worker_busy, args=(setup(), theirs))
    parent.start()
    assert ours.poll(60)
    worker = ours.recv()
    assert pool_jobs.is_alive(worker)
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 10
    while pool_jobs.is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = pool_jobs.is_alive(worker)
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive


def test_a_step_asked_twice_is_played_once_and_one_out_of_turn_is_refused() -> None:
    host = EnvHost(setup())
    env = tiny_env()
    first, second = random_actions(env, 2, seed=3)
    expected = play(env, [first, second], seed=9)
    host.reset(0, 9)
    answer = host.step(0, 0, first)
    assert host.step(0, 0, second) is answer
    with pytest.raises(Exception, match="environment 0 is at decision 1, not at 2"):
        host.step(0, 2, second)
    assert host.step(0, 1, second).values[1] == expected["rewards"][1]
    assert host.reset(0, 9) and host.step(0, 0, first).values[1] == answer.values[1]


def test_batched_environments_play_the_episodes_of_separate_ones_up_to_rounding() -> None:
    one, batched = SerialPool(setup()), open_pool(setup(envs="batched"), warn=pytest.fail)
    first, second = (rollout(vector(workers), actions(3)) for workers in (one, batched))
    np.testing.assert_allclose(second[0], first[0], atol=1e-5)
    for plain, together in zip(first[1:], second[1:], strict=True):
        np.testing.assert_allclose(together[0], plain[0], atol=0.02)
        np.testing.assert_allclose(together[1], plain[1], atol=0.02)
        for ours, theirs in zip(together[3], plain[3], strict=True):
            assert ours["spec"] == theirs["spec"] and ours["compute"] == theirs["compute"]


def test_the_time_of_a_batch_is_divided_among_its_environments() -> None:
    host = EnvHost(setup())
    for env_id in range(4):
        host.reset(env_id, 5)
    chosen = random_actions(tiny_env(), 4, seed=3)
    begun = time.perf_counter()
    answers = host.step_all([(env_id, 0, action) for env_id, action in enumerate(chosen)])
    assert 0 < sum(answer.timings["train_s"] for answer in answers) < time.perf_counter() - begun
