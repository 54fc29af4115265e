"""Checkpoints that are whole or absent: weights, optimiser and the position in the stream.

The learning rate is a function of the step, dropout's randomness of (seed, step, rank) and the data of
(seed, example number), so the step number is the whole of their state.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ialign_ray.errors import CheckpointError
from ialign_ray.storage import MANIFEST, is_intact, read_json, whole_folder

_NAME = re.compile(r"^step-(\d{8})$")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    """Holds `step-00000100/` and so on."""
    fingerprint: str
    """Hash of everything that decides the run; a checkpoint of another one is refused."""
    keep: int = 2
    """Newest ones kept."""

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Path:
        """Write the state after `step` steps; a crash in the middle leaves the earlier checkpoints as they were."""
        target = self.folder / f"step-{step:08d}"
        weights = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        with whole_folder(target, {"step": step, "fingerprint": self.fingerprint}) as scratch:
            save_file(weights, scratch / "trainable.safetensors")
            torch.save(optimizer.state_dict(), scratch / "optimizer.pt")
        for old in self.found()[self.keep :]:
            shutil.rmtree(old)
        return target

    def found(self) -> list[Path]:
        """Checkpoint folders, newest first, intact or not."""
        if not self.folder.exists():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.match(p.name)), reverse=True)

    def newest(self) -> Path | None:
        """The newest checkpoint whose files match their hashes; torn ones are passed over."""
        return next((p for p in self.found() if is_intact(p)), None)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest intact checkpoint into model and optimiser; the steps done, 0 without one.

        Raises CheckpointError when it was made by a run with other settings or data.
        """
        newest = self.newest()
        if newest is None:
            return 0
        meta = read_json(newest / MANIFEST)["meta"]
        if meta["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{newest} was made with other settings or data; give this run another --run name, or remove the folder"
            )
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in load_file(newest / "trainable.safetensors").items():
                parameters[name].copy_(value)
        optimizer.load_state_dict(torch.load(newest / "optimizer.pt", weights_only=True))
        return int(meta["step"])
