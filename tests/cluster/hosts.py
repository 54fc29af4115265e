"""Hosts of one's own on one machine: network namespaces with their own processes, /tmp, home and sshd.

A switch (a bridge) lies in a namespace too, so nothing of the machine's network is touched. Each host is a process tree
of its own: `ray stop` there ends that host's Ray and no other, and killing its first process is pulling the plug.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

SHARED = "/srv"
"""Where every host sees the shared storage."""
BOOT = """
set -e
mount --make-rprivate /
mount --bind {shared} /srv
{disk}
sed 's#^root:.*#root:x:0:0::{own}/home:/bin/bash#' /etc/passwd > {own}/passwd && mount --bind {own}/passwd /etc/passwd
mount -t tmpfs -o size=512m tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir /run/sshd
hostname {name}
echo "127.0.0.1 localhost {name}" > {own}/hosts && mount --bind {own}/hosts /etc/hosts
{first}
while true; do sleep 1000 & wait $!; done
"""
SSHD = """
ListenAddress {address}
HostKey {own}/host_key
AuthorizedKeysFile {own}/home/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
PidFile none
"""


def needs() -> str | None:
    """What this machine lacks for such hosts, or None."""
    if os.geteuid() != 0:
        return "root"
    lacking = [tool for tool in ("ip", "unshare", "nsenter", "sshd", "rsync", "ssh-keygen") if not shutil.which(tool)]
    if lacking:
        return ", ".join(lacking)
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "--uts", "true"], capture_output=True)
    return "namespaces" if tried.returncode else None


def run(*command: object, **options) -> subprocess.CompletedProcess:
    """Run to the end; a failure names what was said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass
class Host:
    """One host; alive while its first process is."""

    lan: Lan
    name: str
    address: str
    process: subprocess.Popen | None = None
    namespace: str = field(init=False)

    def __post_init__(self) -> None:
        self.namespace = f"{self.lan.prefix}-{self.name}"
        self.own = self.lan.folder / self.name

    def environment(self) -> dict[str, str]:
        """What its processes start with: nothing of this machine's settings, and a home of its own."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.own / "home"), "LANG": "C.UTF-8", "TERM": "dumb"}

    def plug_in(self, number: int) -> None:
        """A network namespace, joined to the switch; a device's name has 15 characters at most."""
        switch, device = self.lan.switch, f"{self.lan.prefix}v{number}"
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", switch, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "-n", switch, "link", "set", device, "master", "switch", "up")
        for name in ("lo", "eth0"):
            run("ip", "-n", self.namespace, "link", "set", name, "up")
        run("ip", "-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        # Ray finds a host's address by asking which one would reach the world
        run("ip", "-n", self.namespace, "route", "add", "default", "via", self.lan.gateway)
        self.device = device

    def boot(self, *, sshd: bool, disk: str | None = None) -> None:
        """Start its processes, unless they run; home and /tmp are as they were, or /tmp an empty disk of this size."""
        if self.process is not None and self.process.poll() is None:
            return
        for part in ("home/.ssh", "tmp"):
            (self.own / part).mkdir(parents=True, exist_ok=True)
        (self.own / "tmp").chmod(0o1777)
        first = ""
        if sshd:
            if not (self.own / "host_key").exists():
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.own / "host_key")
            (self.own / "sshd_config").write_text(SSHD.format(own=self.own, address=self.address))
            first = f"{shutil.which('sshd')} -D -e -f {self.own}/sshd_config 2>> {self.own}/sshd.log &"
        mount = f"mount -t tmpfs -o size={disk} tmpfs /tmp" if disk else f"mount --bind {self.own}/tmp /tmp"
        script = BOOT.format(disk=mount, shared=self.lan.shared, own=self.own, name=self.name, first=first)
        apart = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--uts", "--ipc", "--kill-child"]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *apart, "bash", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=(self.own / "boot.log").open("w"),
            env=self.environment(),
        )
        until = time.monotonic() + 20
        while "0" not in self.command("test -d /run/sshd && cat /proc/1/comm >/dev/null && echo 0", check=False):
            assert time.monotonic() < until, (self.own / "boot.log").read_text()
            time.sleep(0.1)

    def first_process(self) -> int:
        """Its process 1, by the number that this machine knows it by."""
        child = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(child[0])

    def enter(self, command: str) -> list[str]:
        """The words that run a shell command on this host, with its login profile."""
        into = ["nsenter", "--target", str(self.first_process()), "--net", "--pid", "--mount", "--uts", "--ipc"]
        return [*into, "bash", "--login", "-c", command]

    def command(self, command: str, *, check: bool = True, timeout: float = 300) -> str:
        """What a shell command says on this host; without `check` also what a failing one says."""
        try:
            words = self.enter(command)
        except (IndexError, FileNotFoundError):
            return ""
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=self.environment())
        assert done.returncode == 0 or not check, (
            f"{self.name}: {command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        )
        return done.stdout + done.stderr

    def cut(self) -> None:
        """Pull the cable."""
        run("ip", "-n", self.lan.switch, "link", "set", self.device, "down")

    def mend(self) -> None:
        """Put the cable back."""
        run("ip", "-n", self.lan.switch, "link", "set", self.device, "up")

    def lose(self) -> None:
        """Pull plug and cable: no other host hears that its connections are closed."""
        self.cut()
        self.kill()

    def kill(self) -> None:
        """Pull the plug: every process of this host is gone at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # `unshare --kill-child`: its process 1 dies with it, and all others with that
            self.process.wait()


class Lan:
    """A switch, hosts on it, and the storage that they share; a context that leaves nothing behind."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder, self.profile = folder, profile
        self.prefix = f"ia{os.getpid()}"
        self.switch = f"{self.prefix}-switch"
        self.shared = folder / "shared"
        self.gateway = "10.77.0.254"
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Lan:
        self.shared.mkdir(parents=True)
        self.shared.chmod(0o777)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key")
        try:
            run("ip", "netns", "add", self.switch)
            run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
            run("ip", "-n", self.switch, "address", "add", f"{self.gateway}/24", "dev", "switch")
            for name in ("lo", "switch"):
                run("ip", "-n", self.switch, "link", "set", name, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.kill()
        for namespace in [*(h.namespace for h in self.hosts.values()), self.switch]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)

    def add(self, name: str, *, sshd: bool = True) -> Host:
        """A new host, booted."""
        host = Host(self, name, f"10.77.0.{len(self.hosts) + 1}")
        self.hosts[name] = host
        host.plug_in(len(self.hosts))
        ssh = host.own / "home" / ".ssh"
        ssh.mkdir(parents=True)
        shutil.copy(self.folder / "key", ssh / "id_ed25519")
        shutil.copy(self.folder / "key.pub", ssh / "authorized_keys")
        for file in (".profile", ".bashrc"):
            (host.own / "home" / file).write_text(self.profile)
        host.boot(sshd=sshd)
        return host
