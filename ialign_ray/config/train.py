"""`train` and `scaling`: how long, how fast, on how many workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ialign_ray.config.section import Section


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


class ScalingConfig(Section):
    """Workers of Ray Train."""

    workers: int = Field(1, ge=1)
    """Training workers."""
    gpu: bool | None = None
    """One GPU a worker; when left out, if the cluster has enough of them."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """CPUs that a worker reserves; what is left over encodes the data."""
    max_failures: int = Field(3, ge=0)
    """How often a lost worker is replaced and the run resumed from its newest checkpoint."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); a local one is started when left out."""
