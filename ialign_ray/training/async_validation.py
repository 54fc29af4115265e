"""Validation in a separate Ray task, which reads a checkpoint while the workers continue training.

Ray Train's `ValidationConfig` (ray 2.60) does the same for checkpoints reported to it; ours are files of the run, from
which any number of workers can resume, and are not reported.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment
from ialign_ray.errors import ClusterError
from ialign_ray.training.validation import Found

PATIENCE = 1200.0
"""Seconds to wait for a result: less than torch's 1800, after which workers that wait for the first one give up."""


class RemoteValidator:
    """Runs each validation as a Ray task with the given spare `resources`: CPU, and GPU if workers have any."""

    def __init__(self, experiment: Experiment, run: Path, resources: dict[str, float]) -> None:
        self._experiment, self._run, self._resources = experiment, run, resources
        self._step, self._task = 0, None

    def start(self, step: int, checkpoint: Path) -> None:
        """Start; the task waits for its resources if they are in use."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        task = ray.remote(validate_checkpoint).options(
            name=f"validate step {step}",
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0),
            # the placement group of the workers has no room left: in it the task would wait forever
            scheduling_strategy=PlacementGroupSchedulingStrategy(None, placement_group_capture_child_tasks=False),
        )
        self._step, self._task = step, task.remote(self._experiment, self._run, checkpoint)

    def ready(self) -> bool:
        """Return True if the task has ended, successfully or not."""
        import ray

        return bool(ray.wait([self._task], timeout=0)[0])

    def result(self) -> Found:
        """Return the losses. Raises ClusterError if the task failed or does not answer."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            found: Found = ray.get(self._task, timeout=PATIENCE)
        except GetTimeoutError:
            # it would keep its resources
            ray.cancel(self._task, force=True)
            raise ClusterError(
                f"the task that validates step {self._step} did not answer within {PATIENCE:g} s"
            ) from None
        except (RayError, OSError) as error:
            raise ClusterError(f"the task that validates step {self._step} failed ({_last_line(error)})") from error
        return found


def validate_checkpoint(experiment: Experiment, run: Path, checkpoint: Path) -> Found:
    """Load a checkpoint's weights into a separate model and validate it, in one process."""
    import torch

    from ialign_ray.training.checkpoint import read_weights
    from ialign_ray.training.runs import untrained_model
    from ialign_ray.training.validation import load_held_out, validate

    began = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = untrained_model(experiment, run)
    read_weights(checkpoint, model)
    if experiment.model.quantization is None:  # a quantised model is on its device already
        model.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.model.precision == "bf16"):
        losses = validate(
            model,
            load_held_out(run / "data"),
            pad=tokenizer.pad_token_id,
            device=device,
            micro_batch_tokens=experiment.train.micro_batch_tokens,
        )
    return Found(losses, time.perf_counter() - began)


def _last_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
