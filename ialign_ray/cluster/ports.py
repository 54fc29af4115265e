"""Open ports of this user's Ray processes, and who can reach them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

HEAD = "RAY_AUTH_MODE=token RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray start --head"
"""Start of a head that no other machine can reach, after `ray get-auth-token --generate`."""

_PARTS = {
    "gcs_server": "control service",
    "raylet": "node manager",
    "autoscaler": "autoscaler",
    "dashboard.py": "dashboard",
    "DashboardAgent": "node agent",
    "RuntimeEnvAgent": "environment agent",
    "ProxyActor": "HTTP proxy",
    "client.server": "client server",
    "ray::": "worker",
}
"""Part of a Ray process's command line -> name of the process."""


@dataclass(frozen=True, order=True)
class Listener:
    """A TCP port that a process listens on."""

    process: str
    pid: int
    address: str
    port: int

    @property
    def exposed(self) -> bool:
        """True if other machines can connect."""
        ip = ipaddress.ip_address(self.address.split("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        return not (mapped or ip).is_loopback


def ray_listeners() -> list[Listener]:
    """Return the ports of this user's Ray processes, except those that this process started."""
    mine = os.getuid() if hasattr(os, "getuid") else None
    found: list[Listener] = []
    for process in psutil.process_iter(["pid", "cmdline", "uids"]):
        line, uids = " ".join(process.info["cmdline"] or ()), process.info["uids"]
        if uids and mine is not None and uids.real != mine:
            continue
        name = next((what for part, what in _PARTS.items() if part in line), None)
        if name and process.pid != os.getpid():
            found += _ports(process, name)
    return sorted(found)


def _ports(process: psutil.Process, name: str) -> Iterable[Listener]:
    try:
        sockets = process.net_connections(kind="tcp")
    except psutil.Error:  # it has ended, or belongs to another user
        return
    for each in sockets:
        if each.status == psutil.CONN_LISTEN:
            yield Listener(name, process.pid, each.laddr.ip, each.laddr.port)


def exposure() -> str | None:
    """Return a warning about ports of Ray that other machines can connect to, or None."""
    found = [each for each in ray_listeners() if each.exposed]
    if not found:
        return None
    ports = ", ".join(f"{each.process} {each.port}" for each in found)
    return (
        f"Ray listens to other machines ({ports}); for a head of one machine use `{HEAD}`, one of several needs "
        "RAY_AUTH_MODE=token and a firewall, see docs/security.md"
    )
