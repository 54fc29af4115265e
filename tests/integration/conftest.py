"""One Ray cluster for the whole session, with its own temporary folder."""

from __future__ import annotations

import os

import pytest

from ialign_ray.cluster import SETTINGS


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    # a short path: Ray's sockets lie under it and may not exceed 107 bytes
    ray.init(
        address="local",
        num_cpus=4,
        _temp_dir=str(tmp_path_factory.mktemp("r")),
        include_dashboard=False,
        runtime_env={"env_vars": dict(SETTINGS)},
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()
