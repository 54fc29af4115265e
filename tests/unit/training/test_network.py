"""Where workers of several hosts are put, and by which network they meet; really on hosts in tests/cluster."""

import os

import psutil
import pytest

from ialign_ray.cluster import scaling_arguments
from ialign_ray.config import ScalingConfig
from ialign_ray.training import ray_stop_requests


@pytest.mark.parametrize(("placement", "strategy"), [("pack", "PACK"), ("spread", "SPREAD")])
def test_ray_is_told_where_workers_are_wished(placement, strategy):
    arguments = scaling_arguments(ScalingConfig(workers=3, placement=placement), use_gpu=False)
    assert arguments["placement_strategy"] == strategy


def test_the_interface_of_an_address_is_found():
    [loopback] = [name for name, held in psutil.net_if_addrs().items() if "127.0.0.1" in {h.address for h in held}]
    assert ray_stop_requests.interface_of("127.0.0.1") == loopback
    assert ray_stop_requests.interface_of("192.0.2.1") is None


def test_gloo_meets_where_ray_does_unless_it_is_told(monkeypatch):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    ray_stop_requests.meet_on_the_clusters_network()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    ray_stop_requests.meet_on_the_clusters_network()
    assert os.environ["GLOO_SOCKET_IFNAME"] == ray_stop_requests.interface_of("127.0.0.1")
