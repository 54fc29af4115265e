"""The columns of stored predictions, a frame a suite: what scoring writes and every metric reads.

One row is one example under one prompt. `id` is a string, unique within (suite, prompt, language); rows of several
languages or prompts with the same id are the same sentence, and are resampled together. `language` is a code, for
translation and retrieval a direction "eng-jav", for instructions the suite's name. `prompt` is a prompt's name.

==============  =======================================================================================================
classification  suite, prompt, language, id, `label` (int, position in the suite's labels), `chars` (of all texts of
                the row), `sum`, `mean`, `calibrated` (lists of a score for each label, in nats)
translation     suite, prompt, language, id, `nats` of the reference given the source, `tokens` and `bytes` of the
                reference, `mismatched_nats` of the reference given another sentence's source. A suite that generates
                adds `source`, `reference`, `hypothesis` (texts; the hypothesis may be empty), `new_tokens` (int,
                generated) and `cut` (bool, ended by the suite's `max_new_tokens`)
instructions    suite, language, id, `source` (name of the file or set), `nats`, `tokens`, `bytes` of the answer
perplexity      suite, language, id, `nats`, `tokens`, `bytes` of the text given nothing
retrieval       suite, language, id, `rank` (0: the right translation is the nearest; ties count against the model),
                `surface_rank` (the same by character n-grams instead of hidden states), `candidates` (how many)
==============  =======================================================================================================

Which functions turn rows into metrics, as a point and as draw vectors (see `statistics`) over resampled ids:

==============  =======================================================================================================
classification  `metrics.classification_metrics`, `statistics.classification_draws`; beside them
                `probabilities.probability_metrics` and `.probability_draws`: `calibration_error`, `auc_ovr`,
                `auc_ovr_length_fixed` (for labels without an order)
translation     `metrics.bits_per_byte`, `.source_use`, `statistics.likelihood_draws`; with a hypothesis
                `translation_metrics.generation_metrics` and `.generation_draws`: `chrf`, `bleu`, `spbleu` (only where
                its tokenizer is on this machine), `chrf_copy` and `bleu_copy` (of the source as hypothesis),
                `chrf_over_copy`, `copied`, `empty`, `cut`, `off_target` and `off_target_reference` (shares; absent
                where the target is not identifiable); `.signatures`, `.notes`
instructions    `metrics.nats_per_token`, `statistics.likelihood_draws`
perplexity      as translation without a source, and `exp(nats_per_token)`, which no two tokenizers share
retrieval       `retrieval_metrics.retrieval_metrics`, `.retrieval_draws`: `retrieval_accuracy`, `retrieval_mrr`,
                `retrieval_chance` (1 / candidates), `retrieval_surface`, `retrieval_over_surface`
==============  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CLASSIFICATION: Final = "classification"
TRANSLATION: Final = "translation"
INSTRUCTIONS: Final = "instructions"
PERPLEXITY: Final = "perplexity"
RETRIEVAL: Final = "retrieval"

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    CLASSIFICATION: ("suite", "prompt", "language", "id", "label", "chars"),
    TRANSLATION: ("suite", "prompt", "language", "id", "nats", "tokens", "bytes", "mismatched_nats"),
    INSTRUCTIONS: ("suite", "language", "id", "source", "nats", "tokens", "bytes"),
    PERPLEXITY: ("suite", "language", "id", "nats", "tokens", "bytes"),
    RETRIEVAL: ("suite", "language", "id", "rank", "surface_rank", "candidates"),
}
"""Columns that each kind has beside those of `SCORES` and `GENERATED`."""

SCORES: Final = ("sum", "mean", "calibrated")
"""Further columns of classification, one at least."""

GENERATED: Final = ("source", "reference", "hypothesis", "new_tokens", "cut")
"""Further columns of a translation suite that generates."""
