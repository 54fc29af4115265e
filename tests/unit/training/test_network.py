"""Where workers of several hosts are put, and by which network they meet; really on hosts in tests/cluster."""

import os
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist

from ialign_ray.cluster.resources import scaling_arguments
from ialign_ray.config import ScalingConfig
from ialign_ray.training import ray_backend


@pytest.mark.parametrize(("placement", "strategy"), [("pack", "PACK"), ("spread", "SPREAD")])
def test_ray_is_told_where_workers_are_wished(placement, strategy):
    arguments = scaling_arguments(ScalingConfig(workers=3, placement=placement), use_gpu=False)
    assert arguments["placement_strategy"] == strategy


def test_the_interface_of_an_address_is_found():
    assert ray_backend.interface_of("127.0.0.1") == loopback()
    assert ray_backend.interface_of("192.0.2.1") is None


def loopback():
    [name] = [name for name, held in psutil.net_if_addrs().items() if "127.0.0.1" in {h.address for h in held}]
    return name


@pytest.fixture
def alone(monkeypatch):
    """This process as the only worker of a group whose host Ray knows by 127.0.0.1."""
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    ranks = dict.fromkeys(("get_local_rank", "get_local_world_size", "get_node_rank"), lambda: 0)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(**ranks))
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK TORCH_NCCL_ASYNC_ERROR_HANDLING NCCL_SOCKET_IFNAME"
    for name in [*names.split(), "GLOO_SOCKET_IFNAME"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    dist.destroy_process_group()
    ray_backend._stores.clear()


def test_workers_meet_on_rays_network_alone(alone):
    before = listeners()
    store = ray_backend.open_store()
    ray_backend.meet(store, "gloo", world_rank=0, world=1, seconds=30)
    total = torch.ones(2)
    dist.all_reduce(total)
    assert total.tolist() == [1, 1]
    assert {address for address, _ in listeners() - before} == {"127.0.0.1"}
    assert store in listeners()
    assert os.environ["GLOO_SOCKET_IFNAME"] == ray_backend.interface_of("127.0.0.1")


def test_the_users_interface_wins(alone, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", loopback())
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "192.0.2.1")  # behind a NAT
    host, port = ray_backend.open_store()
    ray_backend.meet(("127.0.0.1", port), "gloo", world_rank=0, world=1, seconds=30)
    assert host == "192.0.2.1"
    assert os.environ["GLOO_SOCKET_IFNAME"] == loopback()


def listeners():
    return {tuple(c.laddr) for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN}
