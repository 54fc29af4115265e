"""A stranger's attempts, from another host or with the rights of nobody on ours, for test_strangers.py; prints JSON."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

NOBODY = 65534
ROUTES = [
    ("GET", "/", None),
    ("GET", "/metrics", None),
    ("GET", "/api/version", None),
    ("GET", "/api/jobs/", None),
    ("GET", "/api/serve/applications/", None),
    ("GET", "/logs", None),
    ("POST", "/api/jobs/", {"entrypoint": "id"}),
    ("POST", "/api/job_agent/jobs/", {"entrypoint": "id"}),
    ("GET", "/api/job_agent/jobs/1/logs", None),
    ("POST", "/get_or_create_runtime_env", {"job_id": "1", "serialized_runtime_env": "{}"}),
    ("POST", "/delete_runtime_env_if_possible", {}),
]


async def connect(address: str, ports: range) -> list[int]:
    gate = asyncio.Semaphore(500)

    async def one(port: int) -> int | None:
        async with gate:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 5)
            except (OSError, TimeoutError):
                return None
            writer.close()
            return port

    return [port for port in await asyncio.gather(*(one(p) for p in ports)) if port]


def answer(port: int) -> str | None:
    """What a port answers to somebody without a token: None if nothing but refusals."""
    for method, path, body in ROUTES:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as said:
                text = said.read(2000).decode(errors="replace")
        except urllib.error.HTTPError:
            continue
        except Exception:  # no HTTP at all
            return None
        if path == "/metrics" and text.startswith("# HELP"):
            return "metrics"
        return "api" if "ialign" in text else f"{said.status} {method} {path}"
    return None


def joined(address: str) -> bool:
    """Return True if a task runs there. Ray asks a head that refuses it again for minutes, hence the time limit."""
    # imported with the rights to read it, used with those of nobody
    code = (
        "import os, ray, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "ray.init(address=sys.argv[1], log_to_driver=False); print(ray.get(ray.remote(lambda: 'ran').remote()))"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, timeout=40)
    except subprocess.TimeoutExpired:
        return False
    return b"ran" in done.stdout


def read() -> list[str]:
    """Sockets of object stores that take a connection, folders and tokens that can be read."""
    found = []
    for folder in [*Path("/tmp").glob("ialign-*"), *Path("/tmp").glob("ia-*")]:
        try:
            found += [str(file) for file in folder.iterdir()]
        except PermissionError:
            continue
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [f"token of {environ}"] if b"RAY_AUTH_TOKEN=" in environ.read_bytes() else []
        except OSError:
            continue
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        name = line.split()[-1]
        if name.endswith(("plasma_store", "sockets/raylet")):
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(name)
                found.append(name)
            except OSError:
                continue
    return found


if __name__ == "__main__":
    if sys.argv[1] == "connect":
        print(json.dumps(asyncio.run(connect(sys.argv[2], range(*map(int, sys.argv[3:]))))))
    else:
        control, ports = int(sys.argv[2]), json.loads(sys.argv[3])
        os.environ["RAY_AUTH_MODE"] = "disabled"
        addresses = [f"127.0.0.1:{control}", *(f"ray://127.0.0.1:{port}" for port in ports if port == 10001)]
        taken = [address for address in addresses if joined(address)]
        answer(9)  # nobody may not read Python's library: what is imported at first use must be there already
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        answers = {str(port): said for port in ports if (said := answer(port))}
        print(json.dumps({"joined": taken, "answers": answers, "read": read()}), flush=True)
