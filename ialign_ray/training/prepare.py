"""From an experiment to the run's data folder: pools cleared of leaks, templates, tokenizer, counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ialign_ray.config import ClassificationSuite, Experiment, InstructionSuite
from ialign_ray.config.mix import resolve_mix
from ialign_ray.corpus.identity import text_key
from ialign_ray.corpus.parallel import Parallel, drop_long, load_parallel
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import ConfigError
from ialign_ray.languages import display_name
from ialign_ray.modeling.load import load_tokenizer
from ialign_ray.storage import json_hash, whole_folder, write_json
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import ReplayCounts, instructions, load_replay
from ialign_ray.tasks.templating import TemplateSet, load_templates
from ialign_ray.tokens.encode import Encoder


@dataclass(frozen=True)
class Prepared:
    """A plan with its encoder, and what was counted on the way."""

    plan: Plan
    encoder: Encoder
    parallel: Parallel
    replay: ReplayCounts

    def counts(self) -> dict[str, Any]:
        """Rows read, dropped and kept, for the run's record."""
        corpora = {name: asdict(c) for name, c in self.parallel.counts.items()}
        return {"corpora": corpora, "replay": asdict(self.replay)}

    def fingerprint(self, experiment: Experiment) -> str:
        """Hash of everything that decides the weights: settings, pools, templates."""
        settings = experiment.model_dump(mode="json", include={"model", "train", "replay", "tasks"})
        for free in ("checkpoint_every", "keep_checkpoints", "micro_batch_tokens"):
            settings["train"].pop(free)
        pools = [t.to_pydict() for t in (self.plan.pairs, self.plan.replay)]
        return json_hash([settings, [t.model_dump(mode="json") for t in self.plan.templates], pools])


def save_data(folder: Path, plan: Plan, encoder: Encoder) -> None:
    """Write what the workers read: plan, tokenizer and how to encode."""
    with whole_folder(folder) as scratch:
        plan.save(scratch / "plan")
        encoder.tokenizer.save_pretrained(scratch / "tokenizer")
        settings = {k: getattr(encoder, k) for k in ("chat", "separator", "max_prompt", "max_target")}
        write_json(scratch / "encoder.json", settings)


def prepare(experiment: Experiment) -> Prepared:
    """Read and check everything a run needs; no cluster, no weights.

    Raises DataError, ConfigError or ModelError with one sentence.
    """
    check_languages(experiment)
    templates = [load_templates(t) for t in experiment.tasks.templates]
    names = language_names(experiment, templates)
    encoder = make_encoder(experiment)
    keys = evaluation_keys(experiment)
    parallel = drop_long(load_parallel(experiment, keys), encoder.target_fits)
    pool, counts = load_replay(experiment, keys, encoder.fits)
    plan = Plan(
        seed=experiment.train.seed,
        ratio=experiment.replay.ratio,
        mix=resolve_mix(experiment.tasks.mix),
        templates=templates,
        names=names,
        old=frozenset(experiment.languages.l1),
        pairs=parallel.pairs,
        replay=pool,
    )
    return Prepared(plan, encoder, parallel, counts)


def make_encoder(experiment: Experiment) -> Encoder:
    """The experiment's tokenizer with its prompt format and limits."""
    model, train = experiment.model, experiment.train
    return Encoder.of(
        load_tokenizer(model), model.chat, model.separator, train.max_prompt_tokens, train.max_target_tokens
    )


def evaluation_keys(experiment: Experiment) -> set[bytes]:
    """Hashes of every sentence, in every language, of every suite: none of them may be trained on."""
    keys: set[bytes] = set()
    for suite in experiment.evaluate.suites:
        if isinstance(suite, InstructionSuite):
            rows = instructions(suite, experiment.storage.data)
            keys.update(text_key(inputs) for _, _, inputs, _ in rows)
            continue
        columns = list(suite.columns.values())
        needed = [*columns, suite.label] if isinstance(suite, ClassificationSuite) else columns
        table = read_table(suite, experiment.storage.data, needed)
        for column in columns:
            keys.update(text_key(str(t)) for t in table[column].to_pylist() if t)
    return keys


def check_languages(experiment: Experiment) -> None:
    """Every language of a corpus must be old or new; an unseen one must not get parallel text."""
    groups = experiment.languages.groups()
    for corpus in experiment.corpora:
        for code in corpus.columns:
            if code not in groups:
                raise ConfigError(
                    f"corpora.{corpus.name}: language {code!r} is in no group; add it to languages.l1 or languages.l2"
                )
            if groups[code] == "L3":
                raise ConfigError(
                    f"corpora.{corpus.name}: language {code!r} is unseen (languages.l3) but has a column here; "
                    "remove the column or move the language to languages.l2"
                )


def language_names(experiment: Experiment, templates: list[TemplateSet]) -> dict[str, dict[str, str]]:
    """Template language -> code -> name; raises ConfigError for a code without a name."""
    codes = {c for corpus in experiment.corpora for c in corpus.columns}
    overrides = experiment.languages.names
    return {t.language: {c: display_name(c, t.language, overrides) for c in sorted(codes)} for t in templates}
