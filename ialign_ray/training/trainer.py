"""One aligned run: prepare, train under Ray Train, and write a model folder that other tools can load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray import errors
from ialign_ray.cluster.join import cluster
from ialign_ray.cluster.resources import check_resources, hosts, scaling_arguments, validation_resources
from ialign_ray.config import Experiment, build_experiment, dump_yaml
from ialign_ray.errors import CheckpointError, ClusterError, ConfigError, IalignError, StoppedError
from ialign_ray.storage import alone, is_intact, join_writers, read_json, write_json, write_text
from ialign_ray.streaming.examples import ExampleSource
from ialign_ray.terminal import say
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.display import watching
from ialign_ray.training.full_disk import CURE, writing
from ialign_ray.training.mirror import bring_back, mirror_of, mirrored
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.runs import FAILURE, MODEL, RECORD, run_folder, save_run, start_record, untrained_model
from ialign_ray.training.stop_requests import STOP, on_sigterm


def train(experiment: Experiment, name: str, *, resume: bool = False, console: Console | None = None) -> Path:
    """Train one run and return its folder; `resume` continues from the newest intact checkpoint.

    Raises IalignError with one sentence, ConfigError if another process trains this run; checkpoints already written
    are always kept.
    """
    run = run_folder(experiment, name)
    with alone(run, "`ialign align`"):
        _train(experiment, run, name, resume, console or Console())
    return run


def _train(experiment: Experiment, run: Path, name: str, resume: bool, console: Console) -> None:
    prepared = prepare(experiment, console, cluster=True)
    fingerprint = prepared.fingerprint(experiment)
    checkpoints = Checkpoints(run / "checkpoints", fingerprint)
    mirror = mirror_of(experiment, run)
    if mirror and resume:
        bring_back(mirror, run, checkpoints, console)
    if is_intact(run / MODEL) and resume:
        refuse_other(run, fingerprint)
        console.print(f"{name} is finished already", highlight=False)
        return
    # a new run over old checkpoints would mix two runs in one ledger
    if not resume and (checkpoints.found() or (mirror and mirror.names())):
        raise ConfigError(
            f"{run} or its mirror holds checkpoints; continue them with --resume, or choose another --run name"
        )
    with writing(run, CURE):
        write_text(run / "experiment.yaml", dump_yaml(experiment))
        encoded = Path(experiment.storage.runs).absolute() / "encoded" if experiment.storage.cache_encoded else None
        save_data(run / "data", prepared.plan, prepared.encoder, prepared.held_out, encoded)
        write_json(run / RECORD, start_record(experiment, name, prepared, fingerprint))
    # workers end at once if they find either
    for past in (FAILURE, STOP):
        (run / past).unlink(missing_ok=True)
    began = time.time()
    with cluster(experiment.scaling) as resources:
        use_gpu = check_resources(experiment.scaling, resources, hosts())
        beside = resources_beside(experiment, resources, use_gpu, console)
        with (
            watching(experiment, run, console),
            on_sigterm((run / STOP).touch),
            mirrored(mirror, run, checkpoints, console),
        ):
            fit(experiment, run, checkpoints, use_gpu, beside)
            raise_failure(run, checkpoints)
    record = read_json(run / MODEL / RECORD)
    write_json(run / RECORD, record | {"wall_seconds": round(time.time() - began, 1)})
    for sentence in ending_sentences(record["ending"]):
        say(console, f"{name}: {sentence}")


def ending_sentences(ending: dict[str, Any]) -> list[str]:
    """Sentences about anything unusual at the end of a run."""
    said = []
    if ending["reason"]:
        said.append(f"ended early after step {ending['step']} of {ending['steps']}: {ending['reason']}")
    if ending["kept"] != ending["step"]:
        said.append(f"the model is that of step {ending['kept']}, the best one")
    if ending["skipped_steps"]:
        said.append(f"{ending['skipped_steps']} updates were skipped as spikes, see metrics.jsonl")
    return said


def refuse_other(run: Path, fingerprint: str) -> None:
    """Raise CheckpointError if a finished run was made with other settings or data: its scores would mislead."""
    if read_json(run / MODEL / RECORD)["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{run} was finished with other settings or data; remove it, or give the experiment another name"
        )


def resources_beside(
    experiment: Experiment, resources: dict[str, float], use_gpu: bool, console: Console
) -> dict[str, float] | None:
    """Resources of an asynchronous validation; None if the workers validate, with a warning if they must."""
    if experiment.train.validation is None or not experiment.train.validation.asynchronous:
        return None
    try:
        return validation_resources(experiment.scaling, resources, use_gpu)
    except ClusterError as error:
        text = f"warning: {error}; the workers validate between two steps"
        say(console, text)
        return None


def fit(
    experiment: Experiment, run: Path, checkpoints: Checkpoints, use_gpu: bool, beside: dict[str, float] | None
) -> None:
    """Run the training workers to the end, replacing lost ones; validations get the resources in `beside`, if any."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from ialign_ray.training.ray_backend import Config

    trainer = TorchTrainer(
        worker,
        train_loop_config={
            "experiment": experiment.model_dump(mode="json"),
            "run": str(run),
            "fingerprint": checkpoints.fingerprint,
            "beside": beside,
        },
        torch_config=Config(),
        scaling_config=ray.train.ScalingConfig(**scaling_arguments(experiment.scaling, use_gpu)),
        run_config=ray.train.RunConfig(
            # always a new name: our checkpoints decide where a run resumes, not Ray Train's state
            name=f"attempt-{time.time_ns()}",
            storage_path=str(run / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=experiment.scaling.max_failures),
        ),
    )
    try:
        in_background(trainer.fit)
    except ray.train.TrainingFailedError as error:
        if (run / FAILURE).exists():
            return
        if own := user_error(error):  # failure.json could not be written to a full disk
            raise own from error
        newest = checkpoints.newest()
        kept = f"; {newest} is intact, continue with --resume" if newest else ""
        reason = str(error).strip().splitlines()[-1]
        raise ClusterError(f"training failed more than scaling.max_failures times ({reason}){kept}") from error


def user_error(error: Exception) -> IalignError | None:
    """The user's error that ended a worker group, extracted from Ray's exception; None for any other cause."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)  # Ray 2.60 wraps it together with its traceback
        if isinstance(cause, IalignError):
            return cause
    return None


def raise_failure(run: Path, checkpoints: Checkpoints) -> None:
    """Raise the error that ended the workers before the run's end, if any."""
    if (run / FAILURE).exists():
        raise errors.load(read_json(run / FAILURE))
    if (run / STOP).exists() and not is_intact(run / MODEL):  # the disk was full, so the reason was not written
        raise StoppedError(f"stopped by SIGTERM; {checkpoints.newest()} is the newest, continue with --resume")


def in_background(work: Callable[[], Any]) -> None:
    """Run to the end in a thread, so that Ctrl-C keeps Python's handler.

    In the main thread Ray Train would replace it permanently by its own handler, and end with code 1.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # passed to the waiting thread
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    outcome.result()


def worker(config: dict[str, Any]) -> None:
    """Run one training worker; the first one writes the finished model folder.

    A user's error is recorded once and ends every later attempt at its start, so that it is not retried as if a host
    had died.
    """
    run = Path(config["run"])
    if (run / FAILURE).exists():
        return
    writer = join_writers(run)
    try:
        experiment = build_experiment(config["experiment"], "experiment.yaml")
        train_run(experiment, run, config["fingerprint"], config["beside"])
    except IalignError as error:
        with suppress(OSError):
            write_json(run / FAILURE, errors.dump(error))
        if not isinstance(error, StoppedError):  # all workers agreed on it: nothing to retry
            raise
    finally:
        if writer:
            writer.close()


def train_run(experiment: Experiment, run: Path, fingerprint: str, beside: dict[str, float] | None) -> None:
    """The body of a worker: model, stream, loop, model folder."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from ialign_ray.streaming.examples import local_stream, ray_stream
    from ialign_ray.training.async_validation import RemoteValidator
    from ialign_ray.training.batch_size import choose_batching
    from ialign_ray.training.loop import Loop, run_loop
    from ialign_ray.training.objective import objective_of
    from ialign_ray.training.ray_stop_requests import RayStopRequests
    from ialign_ray.training.run_log import RunLog
    from ialign_ray.training.sharding import place, whole_weights
    from ialign_ray.training.validation import load_held_out

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(
            device
        )  # NCCL sends objects from this device; Ray shows a worker its host's other GPUs too
    if device.type == "cpu":
        torch.set_num_threads(
            max(1, (torch.get_num_threads() if world == 1 else cores()) // context.get_local_world_size())
        )
    model, tokenizer = untrained_model(experiment, run)
    place(model, experiment, device)
    source = ExampleSource(str(run / "data"), experiment.train.batch_size, experiment.train.steps)
    settings, requests = experiment.train, RayStopRequests(run, rank)
    half = experiment.model.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        batching = choose_batching(
            model, settings, lambda: next(local_stream(source, 0)), run, pad=tokenizer.pad_token_id, device=device
        )
    loop = Loop(
        settings=settings,
        batching=batching,
        stream=lambda start: ray_stream(source, start, rank, world),
        checkpoints=Checkpoints(run / "checkpoints", fingerprint, settings.keep_checkpoints),
        run_log=RunLog(run, rank, world),
        pad=tokenizer.pad_token_id,
        device=device,
        held_out=load_held_out(run / "data"),
        autocast=half,
        objective=objective_of(settings),
        validator=RemoteValidator(experiment, run, beside) if beside else None,
        on_step=requests.after_step,
        stop_request=requests.stop_request,
    )
    run_loop(model, loop)
    weights = whole_weights(model)
    if rank == 0:
        save_run(experiment, run, model, tokenizer, weights)
    ray.train.report({"step": settings.steps})


def cores() -> int:
    """CPUs that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
