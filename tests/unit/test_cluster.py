"""Joining a cluster: what it may grow to counts, and what keeps a process out of it is one sentence."""

import pytest
import ray
from ray._private.state import state
from ray._private.utils import check_version_info
from ray.core.generated import autoscaler_pb2

from ialign_ray.cluster import awaited, check_resources, grown, reachable, refusal
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError


def test_workers_that_the_autoscaler_may_start_are_waited_for():
    now = {"CPU": 1.0, "memory": 5.0}
    check_resources(ScalingConfig(workers=4), reachable(now, {"CPU": 8.0}))
    with pytest.raises(ClusterError, match="workers is 9, but the cluster has 8 CPUs"):
        check_resources(ScalingConfig(workers=9), reachable(now, {"CPU": 8.0}))
    with pytest.raises(ClusterError, match="has 1 CPUs"):
        check_resources(ScalingConfig(workers=4), reachable(now, {}))
    assert check_resources(ScalingConfig(workers=2), reachable({"CPU": 8.0}, {"GPU": 2.0}))  # from none
    assert reachable({"CPU": 8.0}, {"CPU": 0.0})["CPU"] == 8.0  # a head of its own is not in the autoscaler's count


def test_another_version_is_told_as_ray_tells_it():
    there = {"ray_version": "2.9.3", "python_version": "3.10.4"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(there, "node 10.0.0.1:6379")
    said = refusal("10.0.0.1:6379", caught.value)
    assert f"10.0.0.1:6379 runs Ray 2.9.3 and Python 3.10.4, this process Ray {ray.__version__} " in said
    assert "ialign submit" in said
    assert "\n" not in said


def test_other_reasons():
    assert "does not answer; start a head there" in refusal("auto", ConnectionError("no"))
    token = ray.exceptions.AuthenticationError("Token authentication is enabled but no token was found")
    assert "RAY_AUTH_TOKEN" in refusal("10.0.0.1:6379", token)
    said = refusal("", RuntimeError("one\ntwo"))
    assert said == "the cluster at this machine cannot be joined: one; look at its head"


def test_what_is_waited_for_is_told():
    wide = ScalingConfig(workers=4, cpus_per_worker=2)
    assert awaited(wide, {"CPU": 9.0}, use_gpu=False) is None
    assert "the workers need 9 CPUs, 1 are there" in awaited(wide, {"CPU": 1.0}, use_gpu=False)
    assert "the workers need 4 GPUs, 0 are there" in awaited(wide, {"CPU": 9.0}, use_gpu=True)


def test_the_autoscalers_limits_are_read_as_ray_writes_them(monkeypatch):
    config = autoscaler_pb2.ClusterConfig()
    for number, gpus in ((4, 1), (2, 0)):
        group = config.node_group_configs.add(max_count=number)
        group.resources["CPU"] = 8
        group.resources["GPU"] = gpus
    monkeypatch.setattr(state, "get_cluster_config", lambda: config)
    assert grown() == {"CPU": 48.0, "GPU": 4.0}
    monkeypatch.setattr(state, "get_cluster_config", lambda: None)
    assert grown() == {}
