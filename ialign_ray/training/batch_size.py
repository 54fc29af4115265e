"""Choice of bucketed or packed passes, and the fixed cost of a pass: measured once for a model on a machine, then
stored.

Both give the same gradient except for rounding, but rounding is enough to change the final bits. So the choice is made
once and stored: in the run, which uses it after a resume, and in the user's cache, so that every run of one model on
one kind of machine sums in the same order. The run's record names it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ialign_ray.config import TrainConfig
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.modeling.attention import is_packable, kernel_of, reads_lengths
from ialign_ray.modeling.head import base_model
from ialign_ray.storage import cache_folder, json_hash, read_json, write_json
from ialign_ray.tokens.batch import Batching, Encoded
from ialign_ray.training.collate import Pass, lay_out
from ialign_ray.training.loss import target_nats

BATCHING = "batching.json"
MARGIN = 0.95
"""Share of the bucketed time that packing must stay below, so that noise does not decide."""
ROUNDS = 3


def choose_batching(
    model: nn.Module,
    settings: TrainConfig,
    sample: Callable[[], Sequence[Encoded]],
    run: Path,
    *,
    pad: int,
    device: torch.device,
) -> Batching:
    """Return this run's layout of passes: the stored choice, or one measured by a few passes over `sample`.

    Every worker calls this and does the same passes; the first one's choice applies to all. It is stored in the run's
    folder, and in `batching/` of the cache for other runs of the same model and machine.
    """
    shared = cache_folder() / "batching" / f"{_key(model, settings, device)}.json"
    known: list[Any] = [None]
    if _first():
        known = [next((read_json(p) for p in (run / BATCHING, shared) if p.exists()), None)]
    _broadcast(known)
    if known[0] is None:
        known = [asdict(measure(model, settings, sample(), pad, device))]
        _broadcast(known)
    if _first():
        for path in (run / BATCHING, shared):
            if not path.exists():
                with suppress(OSError):  # a full disk does not end the run; a resume would measure again
                    write_json(path, known[0])
    return Batching(**known[0])


def measure(
    model: nn.Module, settings: TrainConfig, sample: Sequence[Encoded], pad: int, device: torch.device
) -> Batching:
    """The faster layout for these examples; restores the model's weights, gradients and mode."""
    mode, start, tokens = model.training, decoder_start(model), settings.micro_batch_tokens
    model.train()
    enough = _within(sample, tokens)

    def seconds(passes: Sequence[Pass]) -> float:
        # the fastest of several rounds: other work on the machine only adds time
        return min(_timed(model, passes, device) for _ in range(ROUNDS))

    small, large = _block(1, 16, pad), _block(8, 64, pad)
    # of one pass each; two sizes give the fixed part and the part per token
    one, many = (seconds(lay_out(b, Batching(), 2**30, pad, start)) for b in (small, large))
    bucketed = Batching(pass_tokens=pass_tokens(one, many))
    chosen = bucketed
    if settings.batching != "bucketed" and is_packable(model):
        packed = replace(bucketed, packed=True, varlen=reads_lengths(model))
        ways = [lay_out(enough, b, tokens, pad, start) for b in (bucketed, packed)]
        if settings.batching == "packed" or seconds(ways[1]) < MARGIN * seconds(ways[0]):
            chosen = packed
    model.train(mode)
    return chosen


def pass_tokens(small: float, large: float) -> int:
    """The fixed cost of a pass in tokens, from the seconds for 16 and 512 tokens; rounded to a power of two, 8 to
    4096."""
    each = max(large - small, 1e-9) / (512 - 16)
    fixed = max(small - 16 * each, 0.0) / each
    return 1 << min(12, max(3, round(fixed).bit_length()))


def _timed(model: nn.Module, passes: Sequence[Pass], device: torch.device) -> float:
    _settle(device)
    began = time.perf_counter()
    for part in (p.to(device) for p in passes):
        total, _ = target_nats(model, part.positions, part.labels, **part.inputs)
        total.backward()  # type: ignore[no-untyped-call]
    _settle(device)
    seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return seconds


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _block(rows: int, length: int, token: int) -> list[Encoded]:
    """Examples of one length, half of it target."""
    half = [token] * (length // 2)
    return [Encoded(str(k), 0, "", "", "", half, half) for k in range(rows)]


def _within(sample: Sequence[Encoded], tokens: int) -> list[Encoded]:
    taken: list[Encoded] = []
    for example in sample:
        if taken and sum(map(len, taken)) + len(example) > tokens:
            break
        taken.append(example)
    return taken


def _key(model: nn.Module, settings: TrainConfig, device: torch.device) -> str:
    """Hash of everything that the measured times depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    names = ("batching", "batch_size", "micro_batch_tokens", "gradient_checkpointing", "compile")
    own = [{k: getattr(settings, k) for k in names}, torch.is_autocast_enabled(device.type)]
    shape = base_model(model).config.to_dict()
    workers = [dist.get_world_size() if dist.is_initialized() else 1, isinstance(model, FSDPModule)]
    return json_hash([
        shape, trained, kernel_of(model), name, torch.get_num_threads(), workers, torch.__version__, own
    ])[:32]  # fmt: skip


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _broadcast(value: list[Any]) -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(value)
