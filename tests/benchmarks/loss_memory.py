"""Memory and time of the loss at a vocabulary of 250,000: in parts, at once on the targets, and on every token.

    python tests/benchmarks/loss_memory.py

Each way does one step (forward, backward) in a process of its own; counted is how much its peak of resident memory lies
above what it held before: gradients and activations are in it, weights are not. The three give the same loss. On a GPU
it is the allocator's own peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import keep, random_model
from torch import nn

from ialign_ray.modeling.head import target_logits
from ialign_ray.training.loss import logits_finish, target_nats

WAYS = ("everywhere", "targets", "in parts")


def step(way: str, vocabulary: int, tokens: int, targets: int) -> dict[str, float]:
    """Run one way here; peak in MiB above the start, seconds, loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(vocabulary, width=128, layers=2).to(device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # they are there in every step but the first
    ids = torch.randint(2, vocabulary, (8, tokens // 8), generator=torch.Generator().manual_seed(0)).to(device)
    index = torch.arange(0, tokens - 8, (tokens - 8) // targets, device=device)[:targets]
    labels = ids.flatten()[index]
    logits_finish(model)
    before, began = peak(device), time.perf_counter()
    if way == "everywhere":
        logits = model(input_ids=ids, use_cache=False).logits
        where = torch.full_like(ids.flatten(), -100).index_put((index,), labels)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), where, reduction="sum")
    elif way == "targets":
        loss = nn.functional.cross_entropy(target_logits(model, index, input_ids=ids), labels, reduction="sum")
    else:
        loss, _ = target_nats(model, index, labels, input_ids=ids)
    loss.backward()
    seconds = time.perf_counter() - began
    return {"mib": round((peak(device) - before) / 2**20), "seconds": seconds, "loss": loss.item() / targets}


def peak(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(way: str, options: argparse.Namespace) -> dict[str, float]:
    """One way in a process of its own."""
    sizes = [str(n) for n in (options.vocabulary, options.tokens, options.targets, options.threads)]
    command = [sys.executable, str(Path(__file__)), "--way", way]
    for name, size in zip(("--vocabulary", "--tokens", "--targets", "--threads"), sizes, strict=True):
        command += [name, size]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=250_000)
    parser.add_argument("--tokens", type=int, default=1_024)
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help="run this one here and print its numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        sys.stdout.write(json.dumps(step(options.way, options.vocabulary, options.tokens, options.targets)))
        return
    found = {way: apart(way, options) for way in WAYS}
    losses = [r["loss"] for r in found.values()]
    if max(losses) - min(losses) > 1e-4:
        raise SystemExit(f"the losses differ: {losses}")
    keep("loss_memory", {
        "vocabulary": options.vocabulary, "tokens": options.tokens, "targets": options.targets,
        "peak_mib": {way: r["mib"] for way, r in found.items()},
        "seconds": {way: round(r["seconds"], 2) for way, r in found.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
