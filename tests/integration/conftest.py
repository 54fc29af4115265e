"""One Ray cluster for the whole session, as closed to others as ours."""

from __future__ import annotations

import os

import pytest

from ialign_ray.cluster.join import SETTINGS
from ialign_ray.cluster.local import private_ray


@pytest.fixture(scope="session")
def ray_cluster():
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    # Ray's workers have 15 by default, and wait for whatever else this machine does
    os.environ.setdefault("RAY_worker_niceness", "0")
    with private_ray() as arguments:
        import ray

        ray.init(
            **arguments,
            address="local",
            num_cpus=4,
            include_dashboard=False,
            runtime_env={"env_vars": dict(SETTINGS)},
            log_to_driver=False,
        )
        yield ray
        ray.shutdown()
