"""A Ray cluster of a head and two workers, launched by `ray up` from clusters/local.yaml on hosts of our own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from hosts import SHARED, Lan

REPOSITORY = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent.parent
TUNNEL = "http://127.0.0.1:8265"


def until(wanted: Callable[[], object], seconds: float, what: str, *, every: float = 0.5) -> float:
    """Seconds until something is so; fails when it takes longer than told."""
    began = time.monotonic()
    while not wanted():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    return time.monotonic() - began


class Cluster:
    """What a user at a laptop does: launch, tunnel, submit, look, take down."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.laptop = lan.add("laptop", sshd=False)
        self.head = lan.add("head")
        self.workers = [lan.add("one"), lan.add("two")]
        self.tunnel: subprocess.Popen | None = None

    def configure(self) -> None:
        """clusters/local.yaml with its fields filled in for these hosts."""
        config = yaml.safe_load((REPOSITORY / "clusters" / "local.yaml").read_text())
        config["provider"]["head_ip"] = self.head.address
        config["provider"]["worker_ips"] = [w.address for w in self.workers]
        config["auth"]["ssh_user"] = "root"
        [setup] = config["setup_commands"]
        config["setup_commands"] = [setup.replace("/srv/ialign", SHARED).replace("~/ialign-venv", str(VENV))]
        for kind, cpus in (("head", 1), ("worker", 3)):
            # hosts of one machine would each claim all of it
            limits = f" --num-cpus={cpus} --object-store-memory=150000000 --disable-usage-stats"
            starts = config[f"{kind}_start_ray_commands"]
            config[f"{kind}_start_ray_commands"] = [c + limits if "ray start" in c else c for c in starts]
        (self.lan.shared / "local.yaml").write_text(yaml.safe_dump(config))

    def up(self, options: str = "") -> None:
        """`ray up`, and a tunnel to the dashboard."""
        self.laptop.command("test -f ~/.ray/auth_token || ray get-auth-token --generate")
        self.laptop.command(
            f"cd {REPOSITORY} && ray up -y --no-config-cache {options} {SHARED}/local.yaml", timeout=240
        )
        self.open_tunnel()

    def open_tunnel(self) -> None:
        """`ray dashboard`, as clusters/local.yaml says; the head's jobs API answers some seconds after the head."""
        self.close_tunnel()
        words = self.laptop.enter(f"ray dashboard {SHARED}/local.yaml")
        out = (self.lan.folder / "tunnel.log").open("w")
        self.tunnel = subprocess.Popen(words, env=self.laptop.environment(), stdout=out, stderr=out)
        until(lambda: self.ask("/api/version"), 60, "the tunnel to the dashboard")

    def close_tunnel(self) -> None:
        if self.tunnel is not None:
            self.tunnel.terminate()
            self.tunnel.wait(timeout=20)

    def ask(self, path: str, *, token: bool = True) -> dict:
        """What the dashboard answers on the laptop; {} when it does not."""
        header = '-H "Authorization: Bearer $(cat ~/.ray/auth_token)"' if token else ""
        said = self.laptop.command(f"curl -s -m 10 {header} {TUNNEL}{path}", check=False)
        try:
            return json.loads(said)
        except json.JSONDecodeError:
            return {}

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head holds for alive."""
        found = self.ask("/api/v0/nodes").get("data", {}).get("result", {}).get("result", [])
        return sorted(n["node_ip"] for n in found if n["state"] == "ALIVE")

    def submit(self, job: str, command: str, folder: Path = REPOSITORY / "jobs") -> None:
        """`ray job submit` from a folder, tried again while the head's agent is not up yet."""
        words = f"RAY_AUTH_MODE=token ray job submit --address {TUNNEL} --submission-id {job} --no-wait"
        environment = f"--runtime-env {REPOSITORY}/jobs/runtime-env.yaml"
        command = f"cd {folder} && {words} --working-dir . {environment} -- {command}"
        until(lambda: "submitted successfully" in self.laptop.command(command, check=False), 90, f"submitting {job}")

    def status(self, job: str) -> str:
        return self.ask(f"/api/jobs/{job}").get("status", "")

    def logs(self, job: str) -> str:
        return str(self.ask(f"/api/jobs/{job}/logs").get("logs", ""))

    def finish(self, job: str, seconds: float) -> None:
        """Wait for the job's end, which must be a success."""
        until(lambda: self.status(job) in {"SUCCEEDED", "FAILED", "STOPPED"}, seconds, f"the end of {job}", every=1)
        assert self.status(job) == "SUCCEEDED", self.logs(job)[-8000:]

    def raylets(self) -> dict[str, int]:
        """How many raylets run on each host."""
        hosts = [self.head, *self.workers]
        return {h.name: int(h.command("pgrep -cx raylet || true", check=False).split()[0] or 0) for h in hosts}
