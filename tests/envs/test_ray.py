"""Workers as Ray actors on a cluster of two nodes, here both on this machine."""

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster

from envs.host import WorkerSetup
from envs.pool import SerialPool, WorkerPool
from envs.workers import open_pool
from taskrl.assemble import load_data
from taskrl.errors import ConfigError
from tests.agents.lockstep import actions, rollout, vector
from tests.envs import pool_jobs
from tests.envs.tiny import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def setup(**changes: object) -> WorkerSetup:
    config = tiny_config(**changes)
    return WorkerSetup(config, load_data(config), "multidiscrete")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and one more node, one core each, so that two actors have to live on both."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def warnings() -> list[str]:
    return []


@pytest.fixture(scope="module")
def pool(cluster: Cluster, warnings: list[str]) -> Iterator[WorkerPool]:
    pool = open_pool(setup(envs="ray", workers=2, ray_address=cluster.address), warn=warnings.append)
    assert isinstance(pool, WorkerPool)
    yield pool
    pool.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere:x"])
def test_a_cluster_that_is_not_there_is_one_sentence(address: str) -> None:
    assert not ray.is_initialized()
    with pytest.raises(ConfigError, match=r"No Ray cluster answers at .*leave ray_address empty"):
        open_pool(setup(envs="ray", ray_address=address), warn=pytest.fail)


def test_actors_on_both_nodes_play_the_bits_of_this_process(pool: WorkerPool) -> None:
    nodes = {node for _, node in pool.map(pool_jobs.ray_node, [(), ()])}
    assert len(nodes) == 2
    np.testing.assert_equal(rollout(vector(pool), actions(3)), rollout(vector(SerialPool(setup())), actions(3)))


def test_a_lost_actor_is_replaced_where_it_was_and_no_bit_changes(pool: WorkerPool, warnings: list[str]) -> None:
    calm = rollout(vector(SerialPool(setup())), actions(4))
    environment, steps = vector(pool), []
    steps.append(environment.reset())
    for index, row in enumerate(actions(4)):
        if index == 1:
            pool._transport.kill(1)
        observations, rewards, dones, infos = environment.step(row)
        for info in infos:
            info.pop("timings")
        steps.append((observations, rewards, dones, infos))
    np.testing.assert_equal(steps, calm)
    assert len(warnings) == 1 and warnings[0].startswith("Worker 1 (a Ray actor) was lost")
