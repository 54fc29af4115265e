"""A kind of suite: how well a model completes a text of which it sees the first half."""

from typing import Literal

from ialign_ray.config import SuiteSource
from ialign_ray.evaluation.scoring.prompted_suites import LikelihoodUnit
from ialign_ray.evaluation.scoring.suite_kinds import SuiteKind
from ialign_ray.evaluation.suites.load import perplexity_rows


class CompletionSuite(SuiteSource):
    """Texts of which a share is shown."""

    kind: Literal["completion"] = "completion"
    shown: float = 0.5
    """Share of each text's characters that the model sees."""


def units(suite, experiment):
    """One unit: the nats of each text's second part given its first."""
    rows = perplexity_rows(suite, experiment.storage.data)
    at = (rows["target"].str.len() * suite.shown).astype(int)
    prompt = [text[:k] for text, k in zip(rows["target"], at, strict=True)]
    target = [text[k:] for text, k in zip(rows["target"], at, strict=True)]
    rows = rows.assign(prompt=prompt, target=target, length=rows["target"].str.len())
    yield LikelihoodUnit(suite.name, "default", rows)


COMPLETION = SuiteKind(
    config=CompletionSuite, units=units, columns=("nats", "tokens", "bytes"), shown=("bits_per_byte",)
)
