"""`train` with its `validation` and `stop`, and `scaling`: steps, rates, loss and workers of a training run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.languages import ByLanguage

LANGUAGE_MODELING = "language_modeling"
TOKENS = "tokens"
METRIC = r"^validation/(pairs(/[^/]+-[^/]+)?|instructions)$"
"""Metrics by which a run may be stopped or its best checkpoint chosen: all are losses, so lower is better."""


class ValidationConfig(Section):
    """The loss on held-out pairs and old instructions, at intervals; never on an evaluation suite."""

    every: int = Field(50, ge=1)
    """Steps between validations; the base model (before the first step) and the last step are validated too."""
    pairs: int = Field(200, ge=0)
    """Most directed pairs: from the corpora's `holdout`; a corpus without one holds out whole sentences, at most a
    tenth of its training pairs."""
    instructions: int = Field(200, ge=0)
    """Most old instructions, held out from the replay pool, at most a tenth of it; also read for a ratio of 0."""
    asynchronous: bool = False
    """Validate the step's checkpoint in a separate Ray task while training continues, except for the base and the last
    step. Results arrive some steps late, and how late depends on the machine: so do the step at which `train.stop` ends
    a run and the weights of such a run. The field may be changed when a run resumes."""


class StopRule(Section):
    """A rule for ending a run early: no more gain (`patience`) or forgetting (`max_rise`)."""

    metric: str = Field("validation/instructions", pattern=METRIC)
    """`validation/pairs`, `validation/pairs/eng-jav` (a direction) or `validation/instructions`."""
    patience: int | None = Field(None, ge=1)
    """End after this many validations in a row without a gain."""
    min_delta: float = Field(0.0, ge=0)
    """Nats per token by which the loss must fall to count as a gain."""
    max_rise: float | None = Field(None, ge=0)
    """End when the loss is this many nats per token above the base's; such a step is never the best one."""

    @model_validator(mode="after")
    def _one_reason(self) -> Self:
        if (self.patience is None) == (self.max_rise is None):
            raise ValueError("give exactly one of `patience` and `max_rise`; a list may hold both as two rules")
        return self


class LanguageLimits(Section):
    """Longest prompts and targets of one language; those of `train` where omitted."""

    prompt: int | None = Field(None, ge=8)
    """Longest prompt in tokens."""
    target: int | None = Field(None, ge=2)
    """Longest target in tokens."""


class TrainConfig(Section):
    """Training settings: each optimiser step uses `batch_size` examples, whatever the number of workers."""

    steps: int = Field(500, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(32, ge=1)
    """Examples per step, over all workers; each worker accumulates over micro-batches of similar length."""
    micro_batch_tokens: int = Field(4096, ge=16)
    """Most padded tokens of one forward pass on one worker, an encoder-decoder's two sides together; lower it if memory
    runs out."""
    batching: Literal["auto", "bucketed", "packed"] = "auto"
    """`bucketed` pads examples of similar length, `packed` puts several into a row without attention between them;
    `auto` uses whichever is faster for the model on the machine. The gradient is the same except for rounding."""
    objective: str = LANGUAGE_MODELING
    """Loss to minimise: `language_modeling`, the nats of target tokens, or one that an installed package adds by the
    entry point `ialign.objectives`."""
    weighting: Literal["examples", "tokens"] = "tokens"
    """Unit with equal weight in the loss of a step: `examples`, so that each source has the share of the loss that the
    mix and the replay ratio give it, or target `tokens`, so that sources with long answers weigh more."""
    source_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors of the loss by source: a task (`xss`), a task and its new language (`xss/jav`), or `replay`."""
    loss_on: Literal["target", "prompt_and_target"] = "target"
    """Text whose tokens are in the loss; `prompt_and_target`, for causal models, is what the InstructAlign reference
    does."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup: float = Field(0.03, ge=0, le=1)
    """Share of the steps over which the rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the rate to 0 after the warm-up; `constant` keeps it."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    gradient_checkpointing: bool = False
    """Gradient checkpointing: store only the input of each block of layers, and recompute the rest in the backward
    pass: less memory for a third more computation."""
    compile: bool = False
    """Compile the blocks of layers with torch.compile: minutes at the start, for faster steps on GPUs."""
    max_prompt_tokens: int = Field(256, ge=8)
    """Longest prompt; in longer ones the source text is shortened, never the instruction."""
    max_target_tokens: int = Field(128, ge=2)
    """Longest target; examples with a longer one are dropped and counted."""
    language_limits: ByLanguage[LanguageLimits] = Field(default_factory=dict)
    """Language -> limits of its pairs, in place of the two above: a byte-level tokenizer needs three tokens for each
    letter of Burmese. `{mya: {target: 400, prompt: 700}}`."""
    seed: int = Field(0, ge=0)
    """Random seed of the data order and of the adapter's initial weights."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints to keep."""
    validation: ValidationConfig | None = None
    """Held-out loss at intervals; null disables it."""
    stop: list[StopRule] = Field(default_factory=list)
    """Rules for ending early; the first that applies ends the run."""
    keep: Literal["last", "best"] = "last"
    """Step that the finished model is from; `best` also keeps that step's checkpoint in addition to the newest ones."""
    best_metric: str = Field("validation/pairs", pattern=METRIC)
    """The loss that is lowest at the best step."""
    on_spike: Literal["warn", "skip", "stop"] = "warn"
    """Reaction to a loss or gradient norm far above recent ones: `warn` names the batch, `skip` also skips the update,
    `stop` ends the run. It may be changed when a run resumes."""
    spike_deviations: float = Field(10.0, gt=0)
    """Threshold of a spike, in robust standard deviations (1.4826 MAD) above the median of the last 50 steps."""

    @model_serializer(mode="wrap")
    def _plain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # runs are identified by a hash of their settings: runs from before `objective` existed keep their hash
        plain: dict[str, Any] = dump(self)
        return {k: v for k, v in plain.items() if (k, v) != ("objective", LANGUAGE_MODELING)}

    @model_validator(mode="after")
    def _watched(self) -> Self:
        if self.validation is None and (self.stop or self.keep == "best"):
            field = "stop" if self.stop else "keep"
            raise ValueError(f"`{field}` needs validation; add `validation: {{every: 50}}`")
        return self


class ScalingConfig(Section):
    """Workers of Ray Train, and the cluster that they run on."""

    workers: int = Field(1, ge=1)
    """Training workers."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Distribution of a model over several workers: `ddp` replicates it on each, `fsdp` shards weights, gradients and
    optimiser state over them; `auto` shards a model that would fill more than 60 % of a GPU."""
    placement: Literal["pack", "spread"] = "pack"
    """`pack` puts workers on as few hosts as possible, where links are fastest; `spread` puts them on as many as
    possible, for memory or processors that one host lacks. Both are preferences: a worker runs where there is room."""
    gpu: bool | None = None
    """True gives each worker a GPU, false none; if omitted, GPUs are used if the cluster has enough of them."""
    cpus_per_worker: float = Field(0.5, gt=0)
    """CPUs that a worker reserves; the remaining ones encode the data."""
    max_failures: int = Field(3, ge=0)
    """Most times that a lost worker is replaced and the run resumed from its newest checkpoint."""
    address: str | None = None
    """Ray cluster to join (`auto`, `ray://...`); a local one is started if omitted."""
