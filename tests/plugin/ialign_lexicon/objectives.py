"""An objective: every example weighs alike, however long its target is."""

import torch
from torch.nn.functional import cross_entropy

from ialign_ray.modeling.head import target_logits
from ialign_ray.training.objective import Objective


class PerExample(Objective):
    """Mean nats per token of each example, then the mean over examples."""

    def size(self, examples):
        """One for each example."""
        return float(len(examples))

    def loss(self, model, part):
        """Each example's own mean."""
        logits = target_logits(model, part.positions, **part.inputs)
        nats = cross_entropy(logits.float(), part.labels, reduction="none")
        own = torch.stack([n.mean() for n in torch.split(nats, [e.learned for e in part.examples])])
        return own.sum(), own.detach()

    def counts(self, examples):
        """Logged with each step."""
        return {"short_targets": sum(e.learned < 4 for e in examples)}


PER_EXAMPLE = PerExample()
