"""Training objectives: the layout of a step's examples in forward passes, the loss, and the logged counts.

The loop, its checkpoints, ledger, spike detection, resume and sharding are the same for every objective. Third parties
register objectives by the entry point `ialign.objectives`; `train.objective` names one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ialign_ray.config.train import LANGUAGE_MODELING, TOKENS, TrainConfig
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.plugins import Extensible
from ialign_ray.tokens.batch import BUCKETED, Batching, Encoded
from ialign_ray.training.collate import Pass, lay_out
from ialign_ray.training.loss import target_nats


@dataclass(frozen=True)
class PassLayout:
    """Limits and shape of a forward pass."""

    tokens: int
    """Most padded tokens of one pass."""
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
    """One training objective; stateless, so that every worker and every resumed run computes the same."""

    def configured(self, settings: TrainConfig) -> Objective:
        """Return the objective with the settings of a run."""
        return self

    def weight(self, example: Encoded) -> float:
        """Factor of an example's loss in the sum that `loss` returns."""
        return 1.0

    def collate(self, examples: Sequence[Encoded], layout: PassLayout) -> list[Pass]:
        """Lay out one worker's share of a step as passes, on the CPU."""
        return lay_out(examples, layout.batching, layout.tokens, layout.pad, layout.start)

    @abstractmethod
    def size(self, examples: Sequence[Encoded]) -> float:
        """One worker's share of the units that a step's loss averages over, e.g. its weighted target tokens."""

    @abstractmethod
    def loss(self, model: nn.Module, part: Pass) -> tuple[Tensor, Tensor]:
        """Return the loss of a pass, summed over its examples [], with a gradient, and of each of them [n], without.

        The sum is weighted by `weight`, the loss of each example is not. The step divides the sum by the `size` of all
        workers' examples.
        """

    def shares(self, examples: Mapping[str, int], tokens: Mapping[str, int]) -> dict[str, float]:
        """Return each source's share of the loss' weights, given its numbers of examples and of learned tokens.

        By examples, unless the objective overrides this.
        """
        return _shares(examples)

    def counts(self, examples: Sequence[Encoded]) -> dict[str, float]:
        """Numbers of one worker's examples to be summed over workers and logged with each step, by name."""
        return {}


@dataclass(frozen=True)
class LanguageModeling(Objective):
    """Next-token cross-entropy in nats: the mean over target tokens, or over examples of the mean over their tokens.

    Over tokens, an example with a long answer weighs more, so that a task with short answers almost vanishes: XSS at
    12.5 % of the examples of a FLORES mix has 1.2 % of the loss (docs/evaluation.md).
    """

    weighting: str = TOKENS
    factors: Mapping[str, float] = field(default_factory=dict)
    """Source, or task -> factor."""
    whole: bool = False
    """True to learn the prompt's tokens too, except the first."""

    def configured(self, settings: TrainConfig) -> LanguageModeling:
        """Weighting, factors, and the learned text."""
        whole = settings.loss_on == "prompt_and_target"
        return LanguageModeling(settings.weighting, dict(settings.source_weights), whole)

    def weight(self, example: Encoded) -> float:
        """Factor of each of the example's learned tokens."""
        factor = self._factor(example.source, example.task)
        return factor if self.weighting == TOKENS else factor / self._learned(example)

    def _learned(self, example: Encoded) -> int:
        return len(example) - 1 if self.whole else example.learned

    def collate(self, examples: Sequence[Encoded], layout: PassLayout) -> list[Pass]:
        """Lay out the examples; if the prompt is learned too, all but its first token are targets."""
        if self.whole:
            examples = [
                replace(e, prompt=e.prompt[:1], target=[*e.prompt[1:], *e.target], context=[]) for e in examples
            ]
        return super().collate(examples, layout)

    def size(self, examples: Sequence[Encoded]) -> float:
        """Weighted target tokens: their number, or with `examples` the number of examples, both times the factors."""
        return float(sum(self.weight(e) * self._learned(e) for e in examples))

    def loss(self, model: nn.Module, part: Pass) -> tuple[Tensor, Tensor]:
        """Weighted nats of the targets."""
        lengths = [e.learned for e in part.examples]
        weights = [self.weight(e) for e in part.examples]
        each = None
        if any(weight != 1.0 for weight in weights):
            device = part.labels.device
            each = torch.tensor(weights, device=device).repeat_interleave(torch.tensor(lengths, device=device))
        summed, nats = target_nats(model, part.positions, part.labels, each, **part.inputs)
        return summed, torch.stack([own.sum() for own in torch.split(nats, lengths)])

    def shares(self, examples: Mapping[str, int], tokens: Mapping[str, int]) -> dict[str, float]:
        """Return each source's share of the weights of examples, or of their tokens."""
        counts = tokens if self.weighting == TOKENS else examples
        return _shares({source: n * self._factor(source, source.partition("/")[0]) for source, n in counts.items()})

    def _factor(self, source: str, task: str) -> float:
        return self.factors.get(source, self.factors.get(task, 1.0))


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    return {source: weight / sum(weights.values()) for source, weight in sorted(weights.items())}


OBJECTIVES: Extensible[Objective] = Extensible(
    "ialign.objectives",
    Objective,  # type: ignore[type-abstract]  # entries are instances of subclasses
    {LANGUAGE_MODELING: LanguageModeling()},
)


def objective_of(settings: TrainConfig) -> Objective:
    """Return the objective of a run, with its settings. Raises ConfigError for an unknown one."""
    return OBJECTIVES.find(settings.objective, "train.objective").configured(settings)
