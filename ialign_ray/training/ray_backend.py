"""Rendezvous of a run's workers: only on the network by which Ray knows the hosts."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from ray.train.torch import TorchConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch lists it in no __all__

from ialign_ray.training.ray_stop_requests import listen

_stores: list[TCPStore] = []
"""Server of the worker group's store, in its first worker; it lives as long as that process."""


class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Torch's backend with a separate store, and a SIGTERM handler in each worker.

    Ray's `on_start` has torch open the store, which listens on all interfaces and accepts values from anyone.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Connect the workers; run by Ray Train."""
        import ray

        if len(worker_group) == 1:
            return  # no other worker, so torch opens no port
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        meeting = {
            "store": worker_group.execute_single(0, open_store),
            "backend": backend_config.backend or ("nccl" if gpus else "gloo"),
            "world": len(worker_group),
            "seconds": backend_config.timeout_s,
        }
        ray.get([worker_group.execute_single_async(i, meet, world_rank=i, **meeting) for i in range(len(worker_group))])

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        """Handle SIGTERM in the main thread: the training function runs in another, where Python allows no handlers."""
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(listen)


class Config(TorchConfig):  # type: ignore[misc]
    """Torch's configuration with the backend above."""

    @property
    def backend_cls(self) -> type:
        """Backend of this configuration."""
        return Backend


def open_store() -> tuple[str, int]:
    """Open the rendezvous store of a worker group on this host's address in the cluster; return (host, port)."""
    from ray.util import get_node_ip_address

    host = get_node_ip_address()
    family, loopback = (socket.AF_INET6, "::1") if ":" in host else (socket.AF_INET, "127.0.0.1")
    bound = host if interface_of(host) else ""  # behind a NAT the address is not one of this host
    server = socket.create_server((bound, 0), family=family)
    port = int(server.getsockname()[1])
    options: dict[str, Any] = {"is_master": True, "master_listen_fd": server.detach(), "wait_for_workers": False}
    _stores[:] = [TCPStore(bound or loopback, port, **options)]
    return host, port


def meet(store: tuple[str, int], backend: str, world_rank: int, world: int, seconds: float) -> None:
    """Join the process group of a worker group."""
    import ray.train
    from ray.util import get_node_ip_address

    name = interface_of(get_node_ip_address())
    if name:
        # by default gloo binds what the host's name resolves to: on Debian 127.0.1.1, which other hosts cannot reach
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")
    # 1: end the process when a collective fails, so that Ray Train replaces the group
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    context = ray.train.get_context()
    # environment that libraries expect from torchrun
    os.environ |= {
        "RANK": str(world_rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    timeout = timedelta(seconds=seconds)
    client = _stores[0] if _stores else TCPStore(*store, is_master=False, timeout=timeout)
    dist.init_process_group(backend, store=client, rank=world_rank, world_size=world, timeout=timeout)


def interface_of(address: str) -> str | None:
    """Return the name of this host's network interface with the address; None without one, as behind a NAT."""
    import psutil

    found = (name for name, held in psutil.net_if_addrs().items() if address in {h.address for h in held})
    return next(found, None)
