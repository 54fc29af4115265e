"""Hosts and a cluster for the session, and experiments on the storage that the hosts share."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from hosts import SHARED, Lan, needs
from launch import REPOSITORY, VENV, Cluster


@pytest.fixture(scope="session")
def cluster():
    if lacking := needs():
        pytest.skip(f"hosts of one's own need {lacking}; `make test-cluster` installs Debian's packages")
    folder = Path(tempfile.mkdtemp(prefix="ialign-hosts-", dir="/var/tmp"))  # every host has a /tmp of its own
    # niceness: Ray's workers would stand behind whatever else this machine does, since it is no host of theirs alone
    settings = "OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_worker_niceness=0"
    profile = f"export PATH={VENV}/bin:$PATH PYTHONPATH={REPOSITORY} {settings}\n"
    try:
        with Lan(folder, profile) as lan:
            made = Cluster(lan)
            yield made
            made.close_tunnel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_the_cluster(cluster, experiment_data, tmp_path, tiny_model_folder):
    """Puts an experiment of the tiny model on the storage that the hosts share: (path there, run's folder here)."""

    def put(name: str, sections: dict | None = None, **train) -> tuple[str, Path]:
        home = cluster.lan.shared / name
        shutil.copytree(tmp_path, home)
        shutil.copytree(tiny_model_folder, home / "model")
        data = experiment_data | {
            "name": name,
            "model": {"id": f"{SHARED}/{name}/model", "lora": {"rank": 4}},
            "train": {"steps": 100, "batch_size": 6, "checkpoint_every": 5, "learning_rate": 1e-3} | train,
            # 1.5 of a worker host's 3 CPUs and of none of the head's 1: two would fit on one host, so `spread` counts
            "scaling": {"workers": 2, "cpus_per_worker": 1.5, "placement": "spread", "address": "auto"},
            "storage": {"data": f"{SHARED}/{name}", "runs": f"{SHARED}/{name}/runs"},
            **(sections or {}),
        }
        (home / "experiment.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        return f"{SHARED}/{name}/experiment.yaml", home / "runs" / name / "align"

    return put
