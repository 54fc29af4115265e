"""`train` and `scaling`: how long, how fast, on how many workers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.section import Section
from ialign_ray.config.watch import METRIC, StopRule, ValidationConfig


class TrainConfig(Section):
    """One optimiser step sees `batch_size` examples, whatever the number of workers."""

    steps: int = Field(500, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(32, ge=1)
    """Examples a step, over all workers; each worker accumulates over micro-batches of similar length."""
    micro_batch_tokens: int = Field(4096, ge=16)
    """Padded tokens of one forward pass on one worker, an encoder-decoder's two sides together; lower it when memory
    runs out."""
    batching: Literal["auto", "bucketed", "packed"] = "auto"
    """`bucketed` pads examples of similar length, `packed` puts several into a row, apart from each other; `auto` takes
    what is faster for the model on the machine. The gradient is the same but for rounding."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps over which the rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Keep of each block of layers only its input, and compute the rest again when its gradient is taken: less memory
    for a third more arithmetic."""
    compile: bool = False
    """Have torch.compile translate the blocks of layers; minutes at the start, for faster steps on GPUs."""
    max_prompt_tokens: int = Field(256, ge=8)
    """Longer prompts have their source text shortened, never the instruction."""
    max_target_tokens: int = Field(128, ge=2)
    """Examples with a longer target are dropped and counted."""
    seed: int = Field(0, ge=0)
    """Decides what is drawn, in which order, and the adapter's first weights."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    validation: ValidationConfig | None = None
    """Held-out loss at intervals; null trains without."""
    stop: list[StopRule] = Field(default_factory=list)
    """Reasons to end early; the first that holds counts."""
    keep: Literal["last", "best"] = "last"
    """Which step the model folder is of; `best` also keeps that step's checkpoint beside the newest ones."""
    best_metric: str = Field("validation/pairs", pattern=METRIC)
    """The loss that is lowest at the best step."""
    on_spike: Literal["warn", "skip", "stop"] = "warn"
    """What a loss or gradient norm far above those before it leads to: a warning that names the batch, that and no
    update in this step, or the end of the run. It may be changed when a run goes on."""
    spike_deviations: float = Field(10.0, gt=0)
    """How far above is a spike: robust standard deviations (1.4826 MAD) over the median of the last 50 steps."""

    @model_validator(mode="after")
    def _watched(self) -> Self:
        if self.validation is None and (self.stop or self.keep == "best"):
            field = "stop" if self.stop else "keep"
            raise ValueError(f"`{field}` needs validation; add `validation: {{every: 50}}`")
        return self


class ScalingConfig(Section):
    """Workers of Ray Train."""

    workers: int = Field(1, ge=1)
    """Training workers."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several workers share a model: `ddp` keeps it whole on each, `fsdp` cuts weights, gradients and optimiser
    state over them; `auto` cuts what would fill more than 60 % of a GPU."""
    placement: Literal["pack", "spread"] = "pack"
    """`pack` puts workers on as few hosts as have room, where they talk fastest; `spread` puts them on as many as there
    are, for memory or processors that one host lacks. Both are wishes: a worker goes where there is room."""
    gpu: bool | None = None
    """One GPU a worker; when left out, if the cluster has enough of them."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """CPUs that a worker reserves; what is left over encodes the data."""
    max_failures: int = Field(3, ge=0)
    """How often a lost worker is replaced and the run resumed from its newest checkpoint."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); a local one is started when left out."""
