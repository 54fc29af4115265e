"""Training objectives: how a step's examples become forward passes, what is minimised, and what is counted.

The loop, its checkpoints, ledger, spike detection, resume and sharding serve every objective alike. Third parties
register theirs by the entry point `ialign.objectives`; `train.objective` names one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ialign_ray.config.train import LANGUAGE_MODELING
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.plugins import Extensible
from ialign_ray.tokens.batch import BUCKETED, Batching, Encoded
from ialign_ray.training.collate import Pass, lay_out
from ialign_ray.training.loss import target_nats


@dataclass(frozen=True)
class PassLayout:
    """Limits and shape of a forward pass."""

    tokens: int
    """Padded tokens of one pass at most."""
    pad: int
    """Id of the padding token."""
    start: int | None = None
    """First token of an encoder-decoder's targets; None for a causal model."""
    batching: Batching = BUCKETED

    @classmethod
    def of(cls, model: nn.Module, tokens: int, pad: int, batching: Batching = BUCKETED) -> PassLayout:
        """The layout of a model's passes."""
        return cls(tokens, pad, decoder_start(model), batching)


class Objective(ABC):
    """One training objective; without state, so that every worker and every resumed run computes the same."""

    def collate(self, examples: Sequence[Encoded], layout: PassLayout) -> list[Pass]:
        """Lay out one worker's share of a step as passes, on the CPU."""
        return lay_out(examples, layout.batching, layout.tokens, layout.pad, layout.start)

    @abstractmethod
    def size(self, examples: Sequence[Encoded]) -> float:
        """The share of one worker in what a step's loss is the mean over, e.g. its target tokens."""

    @abstractmethod
    def loss(self, model: nn.Module, part: Pass) -> tuple[Tensor, Tensor]:
        """Return the loss of a pass, summed over its examples [], with a gradient, and of each of them [n], without.

        The step divides by the `size` of all workers' examples.
        """

    def counts(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Numbers of one worker's examples to be summed over workers and logged with each step, by name."""
        return {}


class LanguageModeling(Objective):
    """Next-token cross-entropy in nats, the mean over all target tokens of a step."""

    def size(self, examples: Sequence[Encoded]) -> float:
        """Target tokens."""
        return float(sum(len(e.target) for e in examples))

    def loss(self, model: nn.Module, part: Pass) -> tuple[Tensor, Tensor]:
        """Summed nats of the targets."""
        summed, nats = target_nats(model, part.positions, part.labels, **part.inputs)
        return summed, torch.stack([own.sum() for own in torch.split(nats, [len(e.target) for e in part.examples])])


OBJECTIVES: Extensible[Objective] = Extensible(
    "ialign.objectives",
    Objective,  # type: ignore[type-abstract]  # entries are instances of subclasses
    {LANGUAGE_MODELING: LanguageModeling()},
)
