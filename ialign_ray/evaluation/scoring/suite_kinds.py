"""Kinds of suites: one declaration each, from its fields in the experiment file to its columns in tables.

Everything that scores, measures, compares, judges or reports accesses suites only through `SUITES`; an installed
package adds a kind by an entry point of the group `ialign.suites` with the name of the kind. Predictions are one frame
per suite: one row is one example under one prompt. `id` is a string, unique within (suite, prompt, language); rows of
several languages or prompts with the same id are the same sentence, and are resampled together. `language` is a code,
for translation and retrieval a direction "eng-jav", for instructions the suite's name.

==============  =======================================================================================================
classification  suite, prompt, language, id, `label` (int, position in the suite's labels), `chars` (of all texts of
                the row), `sum`, `mean`, `calibrated`, `batch` (lists of a score for each label, in nats)
choice          suite, prompt, language, id, `label` (int, position of the right option in the file's order), `options`
                (int, their number), `chars` (of all texts and options), `sum`, `mean`, `calibrated`, `batch`, of texts
                `per_character`, `per_byte` (lists of a score for each option); the scorers of a suite's second form
                begin with `letter:` or `text:`, missing under the prompts of the first; `order_changed` (1 if the
                order of options changes the answer, missing if they were listed in one order)
translation     suite, prompt, language, id, `nats` of the reference given the source, `tokens` and `bytes` of the
                reference, `mismatched_nats` of the reference given another sentence's source. A suite that generates
                adds `source`, `reference`, `hypothesis` (texts; the hypothesis may be empty), `new_tokens` (int,
                generated) and `cut` (bool, ended by the suite's `max_new_tokens`)
generation      suite, prompt, language, id, `source` (texts of the row), `prompt_text`, `references` (list of texts),
                `hypothesis`, `new_tokens` and `cut` as for translation
following       suite, prompt, language, id, `prompt_text`, `checks` (JSON), `hypothesis`, `new_tokens` and `cut`
instructions    suite, language, id, `source` (name of the file or set), `nats`, `tokens`, `bytes` of the answer
perplexity      suite, language, id, `nats`, `tokens`, `bytes` of the text without a prompt
retrieval       suite, language, id, `rank` (0: the right translation is the nearest; ties count against the model),
                `surface_rank` (the same by character n-grams instead of hidden states), `candidates` (their number)
lm_eval         suite, language, id, `task` (name by lm-evaluation-harness), `score` (the chief metric), `chance` (of a
                random choice; 0 if nothing is chosen), `measured:METRIC` (each metric that is a mean over rows),
                `answers` (JSON); `items` (JSON by metric, for metrics that are not means)
==============  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from ialign_ray.config import (
    ChoiceSuite,
    ClassificationSuite,
    Experiment,
    FollowingSuite,
    GenerationSuite,
    InstructionSuite,
    LmEvalSuite,
    PerplexitySuite,
    RetrievalSuite,
    TranslationSuite,
)
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints
from ialign_ray.evaluation.metrics.cell import LIKELIHOOD, Cell
from ialign_ray.evaluation.metrics.classification import label_cells, predict, score_matrix
from ialign_ray.evaluation.metrics.registry import (
    CHOICE,
    CLASSIFICATION,
    FOLLOWING,
    GENERATION,
    INSTRUCTIONS,
    LM_EVAL,
    METRICS,
    PERPLEXITY,
    RETRIEVAL,
    TRANSLATION,
    draw_metrics,
)
from ialign_ray.evaluation.scoring.choice_suites import choice_units
from ialign_ray.evaluation.scoring.following_suites import following_rows, following_units
from ialign_ray.evaluation.scoring.harness_suites import CHANCE, SCORE, harness_units, task_texts
from ialign_ray.evaluation.scoring.prompted_suites import (
    GenerationUnit,
    LabelUnit,
    LikelihoodUnit,
    RetrievalUnit,
    TranslationUnit,
    Unit,
)
from ialign_ray.evaluation.suites.answers import generation_rows
from ialign_ray.evaluation.suites.choices import choice_rows
from ialign_ray.evaluation.suites.load import (
    classification_rows,
    instruction_rows,
    perplexity_rows,
    retrieval_rows,
    translation_rows,
)
from ialign_ray.plugins import Extensible

ALONE: Final = "default"
"""Name of the prompt of a suite that has only one."""
NEAREST: Final = "nearest"
"""Scorer of retrieval in results."""
BY_TASK: Final = "task"
"""Scorer of lm-evaluation-harness's tasks in results: they score themselves."""

RowValues = Callable[[pd.DataFrame, str], Floats]
"""Function of predictions and the experiment's scorer that returns one number per row (rows,)."""


@dataclass(frozen=True)
class SuiteKind:
    """One kind of suite."""

    config: type[Any]
    """Its fields in the experiment file: a `config.SuiteSource` with `kind: Literal["NAME"] = "NAME"`."""
    units: Callable[[Any, Experiment], Iterator[Unit]]
    """Units of a suite (`config`), one per prompt, with the predicted quantities and the method."""
    columns: tuple[str, ...]
    """Columns of its predictions in addition to suite, language and id; cells are by `prompt` if that is one of
    them."""
    shown: tuple[str, ...]
    """Metrics that tables show; the first, the chief metric, decides gain and forgetting."""
    scorer: str | None = LIKELIHOOD
    """Scorer in its records; None if labels are scored: the experiment then chooses one."""
    texts: Callable[[Any, Experiment], pd.DataFrame] | None = None
    """Rows of a suite with language, id and their texts (`text`, `text:SLOT`, `prompt`, `source`, `target`), for the
    examples of the report."""
    right: RowValues | None = None
    """Right answers: 1, 0, or a share where labels tie. None if nothing is right or wrong."""
    cost: RowValues | None = None
    """Cost of each row, lower is better: finds the examples on which a run got most worse."""
    cost_name: str = "nats"
    """Name of `cost` in reports."""
    old: Literal["score", "loss"] | None = None
    """Tolerance by which the verdict judges its change on old work; None if it is not judged."""
    by_source: bool = False
    """True if its `language` is a source of old instructions, grouped by `group_key` if there is one."""
    proof: int | None = None
    """Rank for promotion: a candidate must be better on the new languages of the suites with the lowest rank, unless
    `promotion.better_on` names others; None if it never must."""

    competency: str = "understanding"
    """Competency of its suites in the overview, unless they name another."""
    scaled: str | None = None
    """Metric of the overview, if not the chief one; it needs a largest value."""
    chance: str | None = None
    """Metric with the score of a random choice, of copying and the like; None: that of the baselines."""

    @property
    def overview_metric(self) -> str:
        """Metric whose normalised score the overview shows."""
        return self.scaled or self.metric

    @property
    def name(self) -> str:
        """Its name in the experiment file."""
        return str(self.config.model_fields["kind"].default)

    @property
    def metric(self) -> str:
        """The chief metric, which decides gain and forgetting."""
        return self.shown[0]

    def chief(self, suite: Any) -> str:
        """Return the metric that a suite of this kind is shown by first: its own choice, if the results name it so."""
        chosen = METRICS.get(str(getattr(suite, "metric", None)))
        return str(suite.metric) if chosen is not None and self.name in chosen.kinds else self.metric

    @property
    def title(self) -> str:
        """Title of the chief metric."""
        return METRICS[self.metric].title

    def titles(self, named: Sequence[str] = ()) -> dict[str, str]:
        """Metric -> title in tables; metrics that a suite names come last."""
        return {metric: METRICS[metric].title for metric in (*self.shown, *named) if metric in METRICS}

    def scored(self, scorer: str) -> str:
        """Value of the scorer column, `scorer` being the experiment's choice."""
        return self.scorer or scorer

    def draw(
        self, rows: pd.DataFrame, unit: Ints, weights: Floats, named: Sequence[str] = ()
    ) -> dict[tuple[str, str], Floats]:
        """Return (scorer, metric) -> draw vector (draws,) of one cell; arguments as the fields of `Cell`.

        `named` are the metrics that the suite names in addition to those of its kind.

        Raises `DataError` for rows that cannot be measured.
        """
        single = {} if self.scorer is None else {self.scorer: Cell(rows, unit, weights, self.scorer)}
        cells = single or label_cells(rows, unit, weights)
        # scorers that agree share a cell, and are drawn once
        drawn = {cell: draw_metrics(cell, self.name, (*self.shown, *named)) for cell in dict.fromkeys(cells.values())}
        return {(scorer, name): d for scorer, cell in cells.items() for name, d in drawn[cell].items()}


def suite_units(experiment: Experiment) -> list[Unit]:
    """The units of all suites, suites in order.

    Raises DataError for a missing column, label or row, ConfigError for a language of no group, or a metric that needs
    a package which is not installed.
    """
    experiment.check_suites()
    for metric in dict.fromkeys(name for suite in experiment.evaluate.suites for name in suite.named_metrics):
        if metric in METRICS and (ready := METRICS[metric].ready):
            ready()
    return [unit for suite in experiment.evaluate.suites for unit in SUITES[suite.kind].units(suite, experiment)]


def label_names(suite: Any) -> list[str]:
    """Names of what a suite's predictions choose from: its labels, or the letters of its options; empty for others."""
    if isinstance(suite, ChoiceSuite):
        return suite.letters
    return list(suite.labels) if isinstance(suite, ClassificationSuite) else []


def kind_of(suite: str, rows: pd.DataFrame, given: Mapping[str, str] | None) -> str:
    """Kind of a suite: as given, else by the columns and the shape of `language` ("eng-jav")."""
    if given and suite in given:
        return given[suite]
    if SCORE in rows.columns:
        return LM_EVAL
    if "label" in rows.columns:
        return CHOICE if "options" in rows.columns else CLASSIFICATION
    for column, kind in (("references", GENERATION), ("checks", FOLLOWING)):
        if column in rows.columns:
            return kind
    directions = rows["language"].astype(str).str.fullmatch(r"[a-z]{2,3}(_[A-Z][a-z]{3})?-[a-z]{2,3}(_[A-Z][a-z]{3})?")
    return TRANSLATION if directions.all() else INSTRUCTIONS


def _classification(suite: ClassificationSuite, experiment: Experiment) -> Iterator[Unit]:
    rows = classification_rows(suite, experiment.storage.data)
    test = rows.test.drop(columns="fold").assign(length=rows.test["chars"])
    for prompt in suite.asked:
        words = tuple(suite.labels[label][prompt.language] for label in rows.labels)
        yield LabelUnit(suite.name, prompt.name, test, prompt.text, suite.slots, words)


def _translation(suite: TranslationSuite, experiment: Experiment) -> Iterator[Unit]:
    for prompt in suite.asked:
        rows = _measured(translation_rows(suite, experiment, prompt), "prompt", "target")
        yield TranslationUnit(suite.name, prompt.name, rows, suite.max_new_tokens if suite.generate else None)


def _perplexity(suite: PerplexitySuite, experiment: Experiment) -> Iterator[Unit]:
    yield LikelihoodUnit(suite.name, ALONE, _measured(perplexity_rows(suite, experiment.storage.data), "target"))


def _retrieval(suite: RetrievalSuite, experiment: Experiment) -> Iterator[Unit]:
    rows = _measured(retrieval_rows(suite, experiment.storage.data), "text")
    yield RetrievalUnit(suite.name, ALONE, rows, suite.layer, tuple(suite.pairs), suite.centre)


def _instructions(suite: InstructionSuite, experiment: Experiment) -> Iterator[Unit]:
    rows = _measured(instruction_rows(suite, experiment.storage.data), "prompt", "target")
    yield LikelihoodUnit(suite.name, ALONE, rows)


def _generation(suite: GenerationSuite, experiment: Experiment) -> Iterator[Unit]:
    for prompt in suite.asked:
        rows = generation_rows(suite, experiment, prompt).drop(columns="reference")
        yield GenerationUnit(suite.name, prompt.name, rows, suite.max_new_tokens)


def _measured(rows: pd.DataFrame, *texts: str) -> pd.DataFrame:
    return rows.assign(length=sum(rows[text].str.len() for text in texts))


def _of_labels(values: RowValues) -> RowValues:
    """The same function, NaN for rows under prompts that the scorer is not used with."""

    def of_rows(rows: pd.DataFrame, scorer: str) -> Floats:
        scored = rows[scorer].notna().to_numpy(bool)
        found: Floats = np.full(len(rows), np.nan)
        if scored.any():
            found[scored] = values(rows[scored], scorer)
        return found

    return of_rows


def _right_label(rows: pd.DataFrame, scorer: str) -> Floats:
    """Share of the prediction that the right label gets."""
    shares = predict(score_matrix(rows[scorer]))
    right: Floats = shares[np.arange(len(rows)), rows["label"].to_numpy(np.int64)]
    return right


def _label_cost(rows: pd.DataFrame, scorer: str) -> Floats:
    """Nats of the right label among the labels: 0 is certainty."""
    logs = log_softmax(score_matrix(rows[scorer]), axis=1)
    cost: Floats = -logs[np.arange(len(rows)), rows["label"].to_numpy(np.int64)]
    return cost


def _nearest(rows: pd.DataFrame, scorer: str) -> Floats:
    right: Floats = np.asarray(rows["rank"] == 0, dtype=np.float64)
    return right


def _far_from_references(rows: pd.DataFrame, scorer: str) -> Floats:
    from ialign_ray.evaluation.metrics.generation import best_rouge_l  # sacrebleu: only if text was generated

    return 1 - np.array([best_rouge_l(*row) for row in zip(rows["hypothesis"], rows["references"])], dtype=np.float64)


def _all_met(rows: pd.DataFrame, scorer: str) -> Floats:
    from ialign_ray.evaluation.metrics.checks import counts_met

    met, given = counts_met(rows)
    return np.asarray(met == given, dtype=np.float64)


def _share_unmet(rows: pd.DataFrame, scorer: str) -> Floats:
    from ialign_ray.evaluation.metrics.checks import counts_met

    met, given = counts_met(rows)
    return 1 - met / given


def _nats(rows: pd.DataFrame, scorer: str) -> Floats:
    return rows["nats"].to_numpy(np.float64)


def _score(rows: pd.DataFrame, scorer: str) -> Floats:
    return rows[SCORE].to_numpy(np.float64)


def _missed(rows: pd.DataFrame, scorer: str) -> Floats:
    return 1 - _score(rows, scorer)


_TEXT: Final = ("nats", "tokens", "bytes")
SUITES: Final = Extensible(
    "ialign.suites",
    SuiteKind,
    {
        CLASSIFICATION: SuiteKind(
            ClassificationSuite,
            _classification,
            ("prompt", "label", "chars"),
            ("f1_weighted", "auc_length_fixed"),
            scorer=None,
            texts=lambda suite, experiment: classification_rows(suite, experiment.storage.data).test,
            right=_right_label,
            cost=_label_cost,
            cost_name="nats of the right label",
            old="score",
            proof=1,
        ),
        CHOICE: SuiteKind(
            ChoiceSuite,
            lambda suite, experiment: choice_units(suite, experiment.storage.data),
            ("prompt", "label", "chars", "options"),
            ("accuracy", "chance", "order_changed"),
            scorer=None,
            chance="chance",
            texts=lambda suite, experiment: choice_rows(suite, experiment.storage.data),
            right=_of_labels(_right_label),
            cost=_of_labels(_label_cost),
            cost_name="nats of the right option",
            old="score",
            proof=1,
        ),
        TRANSLATION: SuiteKind(
            TranslationSuite,
            _translation,
            _TEXT,
            ("bits_per_byte", "source_use", "chrf", "chrf_over_copy", "bleu"),
            texts=lambda suite, experiment: translation_rows(suite, experiment, suite.asked[0]),
            cost=_nats,
            cost_name="nats of the translation",
            proof=2,
            competency="translation",
            scaled="chrf",
            chance="chrf_copy",
        ),
        PERPLEXITY: SuiteKind(
            PerplexitySuite,
            _perplexity,
            _TEXT,
            ("bits_per_byte", "perplexity"),
            texts=lambda suite, experiment: perplexity_rows(suite, experiment.storage.data),
            cost=_nats,
            cost_name="nats of the text",
        ),
        RETRIEVAL: SuiteKind(
            RetrievalSuite,
            _retrieval,
            ("rank", "surface_rank", "candidates"),
            ("retrieval_accuracy", "retrieval_over_surface", "retrieval_chance"),
            scorer=NEAREST,
            right=_nearest,
            competency="alignment",
            chance="retrieval_chance",
        ),
        INSTRUCTIONS: SuiteKind(
            InstructionSuite,
            _instructions,
            _TEXT,
            ("nats_per_token",),
            texts=lambda suite, experiment: instruction_rows(suite, experiment.storage.data),
            cost=_nats,
            cost_name="nats of the answer",
            old="loss",
            by_source=True,
        ),
        LM_EVAL: SuiteKind(
            LmEvalSuite,
            harness_units,
            (SCORE, CHANCE),
            ("lm_eval_score", "lm_eval_chance"),
            scorer=BY_TASK,
            chance="lm_eval_chance",
            texts=task_texts,
            right=_score,
            cost=_missed,
            cost_name="1 - score",
            old="score",
            proof=1,
        ),
        GENERATION: SuiteKind(
            GenerationSuite,
            _generation,
            ("prompt", "source", "prompt_text", "references", "hypothesis", "new_tokens", "cut"),
            ("chrf", "chrf_over_copy", "rouge_l", "exact_match", "valid", "off_target"),
            texts=lambda suite, experiment: generation_rows(suite, experiment, suite.asked[0])[
                ["language", "id", "prompt", "reference"]
            ],
            cost=_far_from_references,
            cost_name="1 - ROUGE-L",
            proof=2,
        ),
        FOLLOWING: SuiteKind(
            FollowingSuite,
            lambda suite, experiment: following_units(suite, experiment.storage.data),
            ("prompt", "prompt_text", "checks", "hypothesis", "new_tokens", "cut"),
            ("followed", "checks_met", "cut"),
            texts=lambda suite, experiment: following_rows(suite, experiment.storage.data, suite.asked[0])[
                ["language", "id", "prompt", "checks"]
            ],
            right=_all_met,
            cost=_share_unmet,
            cost_name="share of checks not met",
            old="score",
        ),
    },
)
"""Every kind of suite by its name in the experiment file."""
