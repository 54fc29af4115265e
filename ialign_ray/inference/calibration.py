"""Label values, by which labels are ranked, from summed log-probabilities.

- `sum`: the label's log-probability. Longer labels are penalised for every token.
- `mean`: per token, which removes most of the dependence on label length.
- `calibrated`: the gain from the prompt's text over a prompt without it. Subtracting the label's
  log-probability under a *content-free* prompt (the same template, its text replaced by "N/A", "[MASK]" or
  nothing) is contextual calibration in its diagonal form, W = diag(p_cf)^-1 and b = 0: Zhao et al. 2021,
  "Calibrate Before Use", arXiv 2102.09690, who average probabilities, normalised over the labels, over
  several such inputs. With one input it ranks as domain-conditional PMI does: Holtzman et al. 2021,
  "Surface Form Competition", arXiv 2104.08315, whose domain premise is the prompt's text-free ending.

`batch_calibrated` is for a whole suite: as `calibrated`, with the prior estimated from the prompts that are scored
instead of content-free ones: the log of each label's mean probability over them. Zhou et al. 2024, "Batch Calibration",
arXiv 2309.17249. It assumes that all labels are about equally frequent among the prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from ialign_ray.errors import ConfigError, DataError

if TYPE_CHECKING:  # torch, which these numbers do not need
    from ialign_ray.inference.scoring import LabelScores

Scorer = Literal["sum", "mean", "calibrated"]
"""Scorers of a single prompt, which do not depend on others."""


def label_values(
    scores: LabelScores, scorer: Scorer = "sum", content_free: LabelScores | None = None
) -> NDArray[np.float64]:
    """Values [n, L] in nats whose largest along the last axis is the prediction.

    Args:
        scores: of the n prompts.
        scorer: `sum`, `mean` or `calibrated` (see the module).
        content_free: for `calibrated`, the scores [m, L] of the same L labels under m content-free
            prompts of the same template; one row is enough, three are usual.

    Raises:
        ConfigError: an unknown scorer.
        DataError: `calibrated` without content-free scores, or with those of other labels.
    """
    if scorer == "sum":
        return scores.log_prob
    if scorer == "mean":
        return scores.log_prob / scores.tokens
    if scorer != "calibrated":
        raise ConfigError(f"scorer is {scorer!r}; choose one of {', '.join(get_args(Scorer))}.")
    if content_free is None or not len(content_free.log_prob):
        raise DataError("the calibrated scorer needs content-free prompts; score some with the same template.")
    if content_free.log_prob.shape[1] != scores.log_prob.shape[1]:
        raise DataError(
            f"the content-free scores have {content_free.log_prob.shape[1]} labels and the prompts "
            f"{scores.log_prob.shape[1]}; score the same labels."
        )
    return scores.log_prob - prior(content_free.log_prob)


def prior(log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the labels' mean probability [L] over prompts [m, L] (content-free or a batch), normalised over labels."""
    # normalised first: an input under which all labels are unlikely counts as much as another
    each = log_softmax(log_prob, axis=-1)
    mean: NDArray[np.float64] = logsumexp(each, axis=0) - np.log(len(each))
    return mean


def batch_calibrated(log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores [n, L] of prompts relative to the labels' mean probability over them; zeros if there is one prompt."""
    # of normalised scores, so that a single prompt has exact ties
    found: NDArray[np.float64] = log_softmax(log_prob, axis=-1) - prior(log_prob)
    return found


CONTENT_FREE = ("N/A", "[MASK]", "")
"""Placeholders for the text, over which the label prior is averaged (Zhao et al. 2021, arXiv 2102.09690)."""
