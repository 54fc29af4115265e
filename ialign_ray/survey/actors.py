"""Languages measured by a pool of model replicas on a Ray cluster: Ray Data hands them out and replaces lost replicas.

A replica stores each language itself, in the folder that all nodes share; only the progress returns to the driver.
"""

from __future__ import annotations

import json
from typing import Any

from ialign_ray import errors
from ialign_ray.cluster.join import cluster, quiet_ray_data
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError, IalignError
from ialign_ray.evaluation.scoring.actors import ScoringProgress, shared
from ialign_ray.survey.measure import SurveyWork


class SurveyActor:
    """One model on one node."""

    def __init__(self, work: Any, threads: int) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self._work: SurveyWork = ray.get(work[0])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Measure and store one language; a user's error is returned, not raised, since Ray would retry."""
        code = str(batch["item"][0])
        try:
            self._work.measure(code)
        except IalignError as error:
            return {"code": [code], "rows": [0], "failure": [json.dumps(errors.dump(error))]}
        return {"code": [code], "rows": [self._work.read_count(code)], "failure": [""]}


def measure_on_replicas(work: SurveyWork, workers: int, address: str | None, advance: ScoringProgress) -> None:
    """Measure the missing languages; raises the first IalignError of a replica, ClusterError for too few CPUs."""
    missing = work.missing()
    with cluster(ScalingConfig(address=address)) as resources:
        import ray

        if workers > resources.get("CPU", 0.0):
            raise ClusterError(f"--workers is {workers}, but the cluster has {resources.get('CPU', 0):g} CPUs")
        layout = shared(workers, resources)
        quiet_ray_data(in_order=False)
        measured = ray.data.from_items(missing, override_num_blocks=len(missing)).map_batches(
            SurveyActor,
            batch_size=1,
            # in a list: Ray would copy the value of a bare reference into the arguments of every replica
            fn_constructor_args=([ray.put(work)], layout.threads),
            compute=ray.data.ActorPoolStrategy(size=min(layout.replicas, len(missing))),
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
        )
        for row in measured.iter_rows():
            if row["failure"]:
                raise errors.load(json.loads(row["failure"]))
            advance(row["code"], row["rows"])
