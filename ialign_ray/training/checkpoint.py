"""Atomic checkpoints: weights, optimiser and the position in the stream.

The learning rate is a function of the step, dropout's randomness of (seed, step, rank) and the data of
(seed, example number), so the step number is their whole state.

For a model replicated on each worker, the first one writes `trainable.safetensors` and `optimizer.pt`; for a sharded
one, every worker writes its part (`*.distcp`, torch's distributed checkpoints). Either is read by any number of
workers, sharded or not.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.fsdp import FSDPModule

from ialign_ray.errors import CheckpointError
from ialign_ray.storage import MANIFEST, is_intact, read_json, whole_folder
from ialign_ray.training.full_disk import writing
from ialign_ray.training.sharding import cut_like, trained

T = TypeVar("T")
_NAME = re.compile(r"^step-(\d{8})$")
_SCRATCH = ".step-*"
_WEIGHTS, _OPTIMIZER = "trainable.safetensors", "optimizer.pt"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """Folder with `step-00000100/` and so on."""
    fingerprint: str
    """Hash of everything that decides the run; a checkpoint of another one is refused."""
    keep: int = 2
    """Number of newest checkpoints to keep."""

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, spare: Collection[int] = ()) -> Path:
        """Write the state after `step` steps; a crash midway leaves the earlier checkpoints unchanged.

        Every worker calls this. Raises CheckpointError, without a cure, if the disk is full; the partial checkpoint is
        then removed.
        """
        target = self.of(step)
        meta = {"step": step, "fingerprint": self.fingerprint}
        if isinstance(model, FSDPModule):
            _write_parts(target, meta, model, optimizer)
        elif first_worker():
            with writing(target), whole_folder(target, meta) as scratch:
                _write_whole(scratch, model, optimizer)
        if first_worker():
            self.sweep(target, spare)
        return target

    def of(self, step: int) -> Path:
        """Folder of a step's checkpoint, which need not exist."""
        return self.folder / f"step-{step:08d}"

    def sweep(self, newest: Path | None, spare: Collection[int] = ()) -> None:
        """Remove checkpoints beyond those to keep, except the given steps, and partial ones that killed attempts
        left."""
        for scratch in self.folder.glob(_SCRATCH):
            shutil.rmtree(scratch, ignore_errors=True)
        # one newer than the newest intact one is torn, and must not count among those to keep
        for old in [p for p in self.found() if newest and p <= newest][self.keep :]:
            if old not in map(self.of, spare):
                shutil.rmtree(old, ignore_errors=True)

    def found(self) -> list[Path]:
        """Checkpoint folders, newest first, intact or not."""
        if not self.folder.exists():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.match(p.name)), reverse=True)

    def newest(self) -> Path | None:
        """The newest checkpoint whose files match their hashes; torn ones are skipped."""
        return next((p for p in self.found() if is_intact(p)), None)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, chosen: Path | None) -> int:
        """Load a checkpoint returned by `newest` into model and optimiser; return the steps done, 0 for None.

        Raises CheckpointError if it was made by a run with other settings or data.
        """
        if chosen is None:
            return 0
        # weights of other data or settings would load without an error, and mix two runs
        meta = read_json(chosen / MANIFEST)["meta"]
        if meta["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{chosen} was made with other settings or data; give this run another --run name, or remove the folder"
            )
        read_weights(chosen, model)
        if (chosen / _WEIGHTS).exists():
            _read_whole(chosen, optimizer)
        else:
            _read_parts(chosen, model, optimizer)
        return int(meta["step"])


def first_worker() -> bool:
    """Return True if this worker writes files that are written only once."""
    return not dist.is_initialized() or dist.get_rank() == 0


def first_says(make: Callable[[], T]) -> T:
    """Return on all workers what `make` returns on the first one; every worker calls this."""
    said: list[Any] = [make() if first_worker() else None]
    if dist.is_initialized():
        dist.broadcast_object_list(said)
    made: T = said[0]
    return made


def read_weights(folder: Path, model: nn.Module) -> None:
    """Load a checkpoint's weights, sharded or not, into a model that is sharded or not."""
    parameters = trained(model)
    if not (folder / _WEIGHTS).exists():
        _read({_key("weights", n): p.detach() for n, p in parameters.items()}, folder)
        return
    with torch.no_grad():
        for name, value in load_file(folder / _WEIGHTS).items():
            parameters[name].copy_(cut_like(value, parameters[name]))


def _write_whole(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = {n: p.detach().cpu().contiguous() for n, p in trained(model).items()}
    save_file(weights, folder / _WEIGHTS)
    # through a Python file, whose error names the cause; by path torch says only "unexpected pos"
    with (folder / _OPTIMIZER).open("wb") as file:
        torch.save(optimizer.state_dict(), file)


def _read_whole(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    # weights_only: a checkpoint is data, and may not run code
    stored = torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True)
    for number, parameter in enumerate(_optimized(optimizer)):
        stored["state"][number] = {k: cut_like(v, parameter) for k, v in stored["state"].get(number, {}).items()}
    optimizer.load_state_dict(stored)


def _write_parts(target: Path, meta: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write every worker's part into one folder, which the first one creates, and renames once all have written."""
    state = {_key("weights", n): p.detach() for n, p in trained(model).items()}
    for name, parameter in trained(model).items():
        state |= {_key(kind, name): value for kind, value in optimizer.state[parameter].items()}
    with writing(target), ExitStack() as stack:
        folder = _folder_of_first(lambda: stack.enter_context(whole_folder(target, meta)))
        try:
            state_dict_saver.save(state, storage_writer=_CheckpointWriter(folder, target))
        except CheckpointException as error:  # on all workers, whichever failed
            raise next(iter(error.failures.values()))[0] from None


def _read_parts(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = trained(model)
    state: dict[str, Tensor] = {}
    values: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, stored in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        kind, _, name = key.partition("/")
        if kind != "weights":
            values[name][kind] = state[key] = _room(stored, parameters[name].detach())
    _read(state, folder)
    names = {id(p): n for n, p in parameters.items()}
    of_optimizer = optimizer.state_dict()
    of_optimizer["state"] = {i: values[names[id(p)]] for i, p in enumerate(_optimized(optimizer))}
    optimizer.load_state_dict(of_optimizer)


def _read(state: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors, sharded or not, from the parts of any number of workers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # expected here: one process reads them all
        state_dict_loader.load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())


def _key(kind: str, name: str) -> str:
    return f"{kind}/{name}"


def _room(stored: Any, parameter: Tensor) -> Tensor:
    """An empty tensor for a part of the optimiser's state: sharded like its parameter, or one number per parameter."""
    if stored.size == parameter.shape:
        return torch.empty_like(parameter, dtype=stored.properties.dtype)
    return torch.empty(stored.size, dtype=stored.properties.dtype)


def _optimized(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Parameters in the order of their numbers in the optimiser's state."""
    return (p for group in optimizer.param_groups for p in group["params"])


class _CheckpointWriter(FileSystemWriter):
    """Adds the disk's reason to an error before it is sent to other workers: a sent error loses its cause."""

    def __init__(self, folder: Path, target: Path) -> None:
        super().__init__(folder)
        self._target = target

    def write_data(self, *arguments: Any) -> Any:
        """Write this worker's part."""
        with writing(self._target):
            return super().write_data(*arguments)


def _folder_of_first(make: Callable[[], Path]) -> Path:
    """The folder that the first worker creates, on all workers; if that fails, raises its OSError on all of them."""

    def attempt() -> Path | OSError:
        try:
            return make()
        except OSError as error:
            return error

    said = first_says(attempt)
    if isinstance(said, OSError):
        raise said
    return said
