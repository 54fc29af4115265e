"""Useful tokens a second of training: our loop, the reference way, transformers.Trainer and TRL's SFTTrainer.

    python tests/benchmarks/training_speed.py

All ways train the same model (fp32, AdamW) on the same examples in the same order with the loss on the targets alone,
32 examples a step; a packed step has as many tokens. The rate is 0, so that the losses can be compared: over all
targets every way must come to the same number. Useful tokens are those of the examples, without padding.

`reference` pads each batch to its longest row and computes logits everywhere. `Trainer` is transformers' own with the
same padding, `Trainer by length` sorts batches by length (`group_by_length`), TRL is run padded, packed into rows of
256 one after another and, on a GPU, packed flat as one row (on a CPU, whose attention computes the whole square, that
took six times as long); the fastest of them counts. Preparing data is not timed for them; for
us it is: dividing and collating run in a thread beside the step, as in a real run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from measuring import KINDS, PAD, any_tokenizer, examples_of, keep, random_model, ratio_to, rounds, timed
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from ialign_ray.config import TrainConfig
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.batch_size import measure
from ialign_ray.training.collate import ahead, lay_out
from ialign_ray.training.loop import make_optimizer
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.step import train_step

CPU = torch.device("cpu")
BATCH = 32


@dataclass
class Way:
    """Train on all examples once; the seconds it took, and the loss over all targets."""

    run: Callable[[], float]
    nats: list[float] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def loss(self) -> float:
        """Mean over the targets of the latest run."""
        return sum(self.nats) / sum(self.targets)


def batches(examples: Sequence[Encoded]) -> list[list[Encoded]]:
    return [list(examples[k : k + BATCH]) for k in range(0, len(examples), BATCH)]


def ours(model: nn.Module, settings: TrainConfig, examples: Sequence[Encoded]) -> Way:
    batching = measure(model, settings, examples[:BATCH], PAD, CPU)
    optimizer = make_optimizer(model, settings)
    budget = settings.micro_batch_tokens

    def train() -> None:
        way.nats, way.targets = [], []
        for step, (batch, passes) in enumerate(
            ahead(iter(batches(examples)), lambda b: lay_out(b, batching, budget, PAD))
        ):
            stats = train_step(
                model, optimizer, batch, step=step, seed=0, layout=PassLayout.of(model, budget, PAD), clip_norm=1.0,
                device=CPU, passes=passes,
            )  # fmt: skip
            way.nats.append(stats.loss * stats.counts["target_tokens"])
            way.targets.append(stats.counts["target_tokens"])

    model.train()
    way = Way(lambda: timed(train))
    return way


def padded_rows(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    width = max(map(len, batch))
    rows = [(e.prompt + e.target, [-100] * len(e.prompt) + e.target, width - len(e)) for e in batch]
    return {
        "input_ids": torch.tensor([ids + [PAD] * more for ids, _, more in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * more for ids, _, more in rows]),
        "labels": torch.tensor([labels + [-100] * more for _, labels, more in rows]),
    }


def reference(model: nn.Module, settings: TrainConfig, examples: Sequence[Encoded]) -> Way:
    optimizer = make_optimizer(model, settings)

    def train() -> None:
        way.nats, way.targets = [], []
        for batch in batches(examples):
            loss = model(**padded_rows(batch), use_cache=False).loss
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            way.targets.append(sum(len(e.target) for e in batch))
            way.nats.append(loss.item() * way.targets[-1])

    model.train()
    way = Way(lambda: timed(train))
    return way


class Clock(TrainerCallback):
    """Seconds from the first step's beginning to the last one's end, and the loss of each step."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began, self.losses = time.perf_counter(), []

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, float], **____: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.began


def by_trainer(make: Callable[[Clock], Trainer], accumulated: int = 1) -> Way:
    """A trainer of transformers or TRL, made anew for each run; targets are counted as its collator hands them over."""

    def run() -> float:
        clock, counts = Clock(), []
        trainer = make(clock)
        collate = trainer.data_collator

        def counting(rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(rows)
            counts.append(int((batch["labels"][:, 1:] != -100).sum()))
            return batch

        trainer.data_collator = counting
        trainer.train()
        way.targets = [sum(counts[k : k + accumulated]) for k in range(0, len(counts), accumulated)]
        way.nats = [loss * n for loss, n in zip(clock.losses, way.targets, strict=True)]
        return clock.seconds

    way = Way(run)
    return way


COMMON = {
    "num_train_epochs": 1, "learning_rate": 0.0, "weight_decay": 0.0, "logging_steps": 1, "report_to": [],
    "save_strategy": "no", "use_cpu": not torch.cuda.is_available(), "disable_tqdm": True, "max_grad_norm": 1.0,
    "gradient_checkpointing": False, "bf16": False, "logging_nan_inf_filter": False,
}  # fmt: skip


def transformers_trainer(examples: Sequence[Encoded], folder: str, **extra: Any) -> Way:
    data = Dataset.from_list([{"k": k, "length": len(e)} for k, e in enumerate(examples)])

    def make(clock: Clock) -> Trainer:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, remove_unused_columns=False, **COMMON | extra
        )
        return Trainer(
            random_model(), arguments, train_dataset=data, callbacks=[clock],
            data_collator=lambda rows: padded_rows([examples[r["k"]] for r in rows]),
        )  # fmt: skip

    return by_trainer(make)


def trl(examples: Sequence[Encoded], tokenizer: Any, folder: str, accumulated: int = 1, **extra: Any) -> Way:
    rows = [{"input_ids": e.prompt + e.target, "completion_mask": [0] * len(e.prompt) + [1] * len(e.target)}
            for e in examples]  # fmt: skip

    def make(clock: Clock) -> Trainer:
        arguments = SFTConfig(
            output_dir=folder, completion_only_loss=True, gradient_accumulation_steps=accumulated, **COMMON | extra
        )
        model = random_model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SFTTrainer(
                model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
            )

    return by_trainer(make, accumulated)


def compare(kind: str, count: int, turns: int, folder: str) -> dict[str, Any]:
    examples, tokenizer = examples_of(kind, count), any_tokenizer()
    settings = TrainConfig(learning_rate=1e-12, batch_size=BATCH)
    for_us, for_reference = random_model(), random_model()
    useful = sum(map(len, examples))
    rows = max(1, round(useful / count * BATCH / 256))
    packed = {"packing": True, "max_length": 256}
    ways = {
        "reference": reference(for_reference, settings, examples),
        "Trainer": transformers_trainer(examples, folder, train_sampling_strategy="sequential"),
        "Trainer by length": transformers_trainer(
            examples, folder, train_sampling_strategy="group_by_length", length_column_name="length"
        ),
        "TRL padded": trl(examples, tokenizer, folder, per_device_train_batch_size=BATCH, max_length=None),
        "TRL packed": trl(examples, tokenizer, folder, rows, per_device_train_batch_size=1, **packed),
        "ialign": ours(for_us, settings, examples),
    }
    if torch.cuda.is_available():
        ways["TRL packed flat"] = trl(examples, tokenizer, folder, per_device_train_batch_size=rows, **packed)
    seconds = rounds({name: way.run for name, way in ways.items()}, turns)
    losses = {name: way.loss() for name, way in ways.items()}
    for name, loss in losses.items():
        if abs(loss - losses["reference"]) > 1e-3:  # a trainer logs four digits of each step's loss
            raise SystemExit(f"{kind}: {name} has a loss of {loss}, the reference of {losses['reference']}")
    ratio = ratio_to(seconds, "reference")
    best = max((n for n in ways if n.startswith("TRL")), key=ratio.__getitem__)
    whole = [padded_rows(b)["input_ids"].numel() for b in batches(examples)]
    return {
        "mean tokens": round(useful / count, 1),
        "useful share, padded to longest": round(useful / sum(whole), 2),
        "tokens_per_second": {n: round(useful / statistics.median(s)) for n, s in seconds.items()},
        "times_reference": ratio,
        "best of TRL": best,
        "times_best_of_TRL": round(statistics.median(
            a / b for a, b in zip(seconds[best], seconds["ialign"], strict=True)), 2),
        "loss": {name: round(loss, 4) for name, loss in losses.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        kinds = {kind: compare(kind, options.steps * BATCH, options.rounds, folder) for kind in KINDS}
    keep("training_speed", {"examples a step": BATCH, "steps": options.steps, "rounds": options.rounds, "kinds": kinds})


if __name__ == "__main__":
    main()
