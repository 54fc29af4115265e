"""Checkpoints that are whole or absent: weights, optimiser and the position in the stream.

The learning rate is a function of the step, dropout's randomness of (seed, step, rank) and the data of
(seed, example number), so the step number is the whole of their state.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ialign_ray.errors import CheckpointError
from ialign_ray.storage import MANIFEST, is_intact, read_json, whole_folder

_NAME = re.compile(r"^step-(\d{8})$")
_SCRATCH = ".step-*"
CURE = "free space or lift the quota there, then go on with --resume; what was saved before is intact"


@contextmanager
def writing(target: Path, cure: str = "") -> Iterator[None]:
    """Turn a disk's refusal to take `target` into a CheckpointError that names it, the cause and the cure."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = _refusal(error)
        if cause is None:
            raise
        raise CheckpointError(f"{target} could not be written ({cause})" + (f"; {cure}" if cure else "")) from error


def _refusal(error: BaseException | None) -> str | None:
    """What the disk said, None when it said nothing; safetensors and torch wrap it in errors of their own."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, SafetensorError) and (said := re.search(r"([^:]+) \(os error \d+\)", str(error))):
            return said[1].strip()
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """Holds `step-00000100/` and so on."""
    fingerprint: str
    """Hash of everything that decides the run; a checkpoint of another one is refused."""
    keep: int = 2
    """Newest ones kept."""

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, spare: Collection[int] = ()) -> Path:
        """Write the state after `step` steps; a crash in the middle leaves the earlier checkpoints as they were.

        Raises CheckpointError, without a cure, when the disk takes no more; what was written of it is gone then.
        """
        target = self.of(step)
        weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        with writing(target), whole_folder(target, {"step": step, "fingerprint": self.fingerprint}) as scratch:
            save_file(weights, scratch / "trainable.safetensors")
            # through a Python file, whose error names the cause; by path torch tells of "unexpected pos" alone
            with (scratch / "optimizer.pt").open("wb") as file:
                torch.save(optimizer.state_dict(), file)
        self.sweep(target, spare)
        return target

    def of(self, step: int) -> Path:
        """Where the checkpoint of a step lies, if there is one."""
        return self.folder / f"step-{step:08d}"

    def sweep(self, newest: Path | None, spare: Collection[int] = ()) -> None:
        """Remove checkpoints beyond those kept and those of the steps to spare, and what killed attempts left half
        written or half removed."""
        for scratch in self.folder.glob(_SCRATCH):
            shutil.rmtree(scratch, ignore_errors=True)
        # one newer than the newest intact one is torn, and must not count among those kept
        for old in [p for p in self.found() if newest and p <= newest][self.keep :]:
            if old not in map(self.of, spare):
                shutil.rmtree(old, ignore_errors=True)

    def found(self) -> list[Path]:
        """Checkpoint folders, newest first, intact or not."""
        if not self.folder.exists():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.match(p.name)), reverse=True)

    def newest(self) -> Path | None:
        """The newest checkpoint whose files match their hashes; torn ones are passed over."""
        return next((p for p in self.found() if is_intact(p)), None)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, chosen: Path | None) -> int:
        """Load a checkpoint that `newest` chose into model and optimiser; the steps done, 0 for None.

        Raises CheckpointError when it was made by a run with other settings or data.
        """
        if chosen is None:
            return 0
        meta = read_json(chosen / MANIFEST)["meta"]
        if meta["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{chosen} was made with other settings or data; give this run another --run name, or remove the folder"
            )
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in load_file(chosen / "trainable.safetensors").items():
                parameters[name].copy_(value)
        optimizer.load_state_dict(torch.load(chosen / "optimizer.pt", weights_only=True))
        return int(meta["step"])
