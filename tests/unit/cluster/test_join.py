"""Joining a cluster: what it may grow to counts, and what keeps a process out of it is one sentence."""

import math
import os
import signal
import sys

import pytest
import ray
from ray._private.state import state
from ray._private.utils import check_version_info, set_sigterm_handler
from ray.core.generated import autoscaler_pb2

from ialign_ray.cluster.join import cluster, own_sigterm, refusal
from ialign_ray.cluster.resources import awaited, check_resources, grown, hosts, reachable
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError, StoppedError
from ialign_ray.jobs.entry import stoppable


def test_workers_that_the_autoscaler_may_start_are_waited_for():
    now, kinds = {"CPU": 1.0, "memory": 5.0}, [(1, {"CPU": 1.0}), (2, {"CPU": 4.0})]
    check_resources(ScalingConfig(workers=4), reachable(now, {"CPU": 8.0}), kinds)
    with pytest.raises(ClusterError, match="workers is 9, but the cluster has 8 CPUs"):
        check_resources(ScalingConfig(workers=9), reachable(now, {"CPU": 8.0}), kinds)
    with pytest.raises(ClusterError, match="has 1 CPUs"):
        check_resources(ScalingConfig(workers=4), reachable(now, {}), kinds)
    assert check_resources(  # from none
        ScalingConfig(workers=2), reachable({"CPU": 8.0}, {"GPU": 2.0}), [(1, {"CPU": 8.0}), (2, {"CPU": 8, "GPU": 1})]
    )
    assert reachable({"CPU": 8.0}, {"CPU": 0.0})["CPU"] == 8.0  # a head of its own is not in the autoscaler's count


@pytest.mark.parametrize(
    ("scaling", "hosts", "room"),
    [
        ({"workers": 1, "cpus_per_worker": 6}, [(1, {"CPU": 4.0})] * 4, 0),  # 16 CPUs, and none of them fits
        ({"workers": 4, "cpus_per_worker": 2}, [(1, {"CPU": 3.0})] * 3, 3),  # 9 CPUs for 4 x 2 + 1
        ({"workers": 2, "gpu": True}, [(1, {"CPU": 8.0}), (1, {"CPU": 0.25, "GPU": 4.0})], 0),
        ({"workers": 2, "cpus_per_worker": 2}, [(1, {"CPU": 2}), (math.inf, {"CPU": 1}), (0, {"CPU": math.inf})], 1),
        ({"workers": 3, "cpus_per_worker": 2}, [(1, {"CPU": 6.0}), (0, {"CPU": 64.0})], 3),
        ({"workers": 3, "cpus_per_worker": 2}, [(1, {"CPU": 1.0}), (math.inf, {"CPU": 2.0})], math.inf),
        ({"workers": 3, "cpus_per_worker": 0.1}, [(1, {"CPU": 0.3}), (1, {"CPU": 0.05}), (0, {"CPU": math.inf})], 3),
        ({"workers": 3}, [(1, {"CPU": math.inf})], math.inf),
    ],
)
def test_a_worker_finds_what_it_needs_on_one_host(scaling, hosts, room):
    wanted = ScalingConfig(**scaling)
    whole = {"CPU": 99.0, "GPU": 4.0 if wanted.gpu else 0.0}
    if room >= wanted.workers:
        check_resources(wanted, whole, hosts)
    else:
        with pytest.raises(ClusterError, match=f"do not fit: only {room} of them fit on one host"):
            check_resources(wanted, whole, hosts)


def test_another_version_is_told_as_ray_tells_it():
    there = {"ray_version": "2.9.3", "python_version": "3.10.4"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(there, "node 10.0.0.1:6379")
    said = refusal("10.0.0.1:6379", caught.value)
    assert f"10.0.0.1:6379 runs Ray 2.9.3 and Python 3.10.4, this process Ray {ray.__version__} " in said
    assert "ialign submit" in said
    assert "\n" not in said


def test_other_reasons():
    assert "run the command again" in refusal("", Exception("The current node timed out during startup. This"))
    assert "does not answer; start a head there" in refusal("auto", ConnectionError("no"))
    token = ray.exceptions.AuthenticationError("Token authentication is enabled but no token was found")
    assert "RAY_AUTH_TOKEN" in refusal("10.0.0.1:6379", token)
    said = refusal("", RuntimeError("one\ntwo"))
    assert said == "the cluster at this machine cannot be joined: one; check the log of its head"


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
    config.node_group_configs.add(max_count=-1).resources["CPU"] = 2
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False}])
    assert hosts() == [
        *((1.0, {"CPU": 1.0}), (4.0, {"CPU": 8.0, "GPU": 1.0}), (2.0, {"CPU": 8.0, "GPU": 0.0})),
        (math.inf, {"CPU": 2.0}),
    ]
    monkeypatch.setattr(state, "get_cluster_config", lambda: None)
    assert grown() == {}


def rays_handler(number, _):
    sys.exit(number)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    pytest.fail("SIGTERM came to nothing")


def test_sigterm_stays_ours_when_ray_has_started():
    with stoppable():
        with own_sigterm():
            set_sigterm_handler(rays_handler)
        with pytest.raises(StoppedError):
            terminate()


def test_sigterm_while_ray_starts_is_ours_too(monkeypatch):
    def start(**_):
        set_sigterm_handler(rays_handler)
        terminate()

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(StoppedError), stoppable(), cluster(ScalingConfig(address="10.0.0.1:6379")):
        pytest.fail("joined")


def test_rays_handler_of_a_start_before_is_not_taken_for_ours(monkeypatch):
    monkeypatch.setattr(rays_handler, "__module__", "ray._private.node")
    before = signal.signal(signal.SIGTERM, rays_handler)
    try:
        with own_sigterm():
            set_sigterm_handler(terminate)
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, before)
