"""Preparation of a run's data folder from an experiment: decontaminated pools, templates, tokenizer, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from ialign_ray.config import Experiment, ValidationConfig
from ialign_ray.config.model import CHAT_DATE, DECLARED
from ialign_ray.config.tasks import resolve_mix
from ialign_ray.config.train import TOKENS
from ialign_ray.corpus.pairs import Parallel, drop_long, language_losses, load_parallel
from ialign_ray.corpus.validation import hold_out_pairs
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.modeling.load import check_quantization, load_tokenizer, names_encoder_decoder
from ialign_ray.modeling.vocabulary import extend_tokenizer
from ialign_ray.storage import cache_folder, json_hash, whole_folder, write_json
from ialign_ray.streaming.curate import curate
from ialign_ray.streaming.examples import save_cache
from ialign_ray.tasks.plan import Drawn, Plan
from ialign_ray.tasks.replay import ReplayCounts, split_replay
from ialign_ray.tasks.templating import experiment_templates, language_names
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.objective import objective_of
from ialign_ray.training.stopping import PREFIX
from ialign_ray.training.validation import encode_held_out, metrics_of, save_held_out

SAMPLED = 2_000
"""Number of first examples of a run over which its mix is counted."""
_EARLIER = {"weighting": TOKENS, "source_weights": {}, "loss_on": "target", "language_limits": {}}
"""Behaviour of runs that are older than these fields, which so keep their fingerprint."""
_TURN = ("opening", "closing", "end", "folds_system", "anchor", "trimmed")
"""Fields of the encoder that a chat template decides."""
_EARLIER_MODEL = {"chat_template_kwargs": {}, "chat_date": CHAT_DATE}


@dataclass(frozen=True)
class Prepared:
    """A plan with its encoder, and counts of its data."""

    plan: Plan
    encoder: Encoder
    parallel: Parallel
    replay: ReplayCounts
    held_out: Sequence[Encoded] = ()
    """Examples that validation measures the loss on."""

    def counts(self) -> dict[str, Any]:
        """Rows read, dropped and kept, for the run's record."""
        corpora = {name: asdict(c) for name, c in self.parallel.counts.items()}
        validation = dict(sorted(Counter(e.source for e in self.held_out).items()))
        read = {"corpora": corpora, "replay": asdict(self.replay), "validation": validation}
        return read | {"fallbacks": self.fallbacks()}

    @cached_property
    def first(self) -> list[Drawn]:
        """The run's first examples, over which its mix is counted."""
        return [self.plan.draw(i) for i in range(SAMPLED)]

    def fallbacks(self) -> dict[str, list[int]]:
        """Task and new language -> [examples that became another task, examples drawn], of the run's first ones.

        A pair cannot be used for a task if its sentence has one word, or no similar sentence to confuse it with.
        """
        drawn, fallen = Counter[str](), Counter[str]()
        for one in self.first:
            if one.asked != "replay":
                key = f"{one.asked}/{one.source.partition('/')[2]}"
                drawn[key] += 1
                fallen[key] += one.example.task != one.asked
        return {key: [fallen[key], drawn[key]] for key in sorted(drawn) if fallen[key]}

    def fingerprint(self, experiment: Experiment) -> str:
        """Hash of everything that the weights depend on: settings, pools, templates."""
        settings = experiment.model_dump(mode="json", include={"model", "train", "replay", "tasks"}, exclude=DECLARED)
        train = experiment.train
        # the reaction to a spike may change when a run resumes; the run log records what was done
        free = ["checkpoint_every", "keep_checkpoints", "micro_batch_tokens", "on_spike", "spike_deviations"]
        # these change rounding at most
        free += ["gradient_checkpointing", "compile", "batching"]
        if not train.stop and train.keep == "last":
            free += ["validation", "stop", "keep", "best_metric"]  # held-out rows show in the pools
        (settings["train"]["validation"] or {}).pop("asynchronous", None)  # the same losses, only later
        for name in free:
            settings["train"].pop(name)
        for name, value in _EARLIER.items():
            if settings["train"][name] == value:
                settings["train"].pop(name)
        for name, value in _EARLIER_MODEL.items():
            if settings["model"][name] == value:
                settings["model"].pop(name)
        if settings["replay"]["loss_on"] == "all_turns":
            settings["replay"].pop("loss_on")
        for source in settings["replay"]["sources"]:
            for name in ("columns", "template"):
                if not source[name]:
                    source.pop(name)
        # a kernel changes rounding only
        settings["model"].pop("attention")
        # runs that are older than these fields trained on other tokens where a template has them
        turn = {name: value for name in _TURN if (value := getattr(self.encoder, name))}
        if turn.get("end") == self.encoder.tokenizer.eos_token_id:
            del turn["end"]
        settings |= {"turn": turn} if turn else {}
        pools = [t.to_pydict() for t in (self.plan.pairs, self.plan.replay)]
        return json_hash([settings, [t.model_dump(mode="json") for t in self.plan.templates], pools])


def save_data(
    folder: Path, plan: Plan, encoder: Encoder, held_out: Sequence[Encoded] = (), encoded: Path | None = None
) -> None:
    """Write the files that workers read: plan, tokenizer and its settings, held-out examples, and the folder of
    `encoded` examples, if they are cached."""
    with whole_folder(folder) as scratch:
        save_held_out(scratch, held_out)
        plan.save(scratch / "plan")
        encoder.tokenizer.save_pretrained(scratch / "tokenizer")
        write_json(scratch / "encoder.json", encoder.settings())
        if encoded is not None:
            save_cache(scratch, encoded, plan.mixture)


def prepare(experiment: Experiment, console: Console | None = None, *, cluster: bool = False) -> Prepared:
    """Read, clean and check everything that a run needs, without weights, and without a cluster unless allowed.

    Raises DataError, ConfigError or ModelError with one sentence.
    """
    objective_of(experiment.train)
    experiment.check_suites()
    templates = experiment_templates(experiment)
    names = language_names(experiment, templates)
    built, index = curate(experiment, console, cluster=cluster)
    wanted = experiment.train.validation or ValidationConfig(pairs=0, instructions=0)
    parallel, pairs = hold_out_pairs(experiment, built, load_parallel(experiment, built), wanted.pairs)
    encoder = make_encoder(experiment, new_texts(parallel.pairs, experiment.languages.l2))
    every = parallel.pairs
    own = {code: encoder.within(code).targets_fit for code in encoder.limits}
    parallel = drop_long(parallel, encoder.targets_fit, own)
    for warning in language_losses(experiment, built.counts, every, parallel.pairs):
        (console or Console(stderr=True)).print(f"[bold yellow]warning:[/] {escape(warning)}", highlight=False)
    pool, instructions, counts = split_replay(experiment, index, encoder.fits, wanted.instructions)
    plan = Plan(
        seed=experiment.train.seed,
        ratio=experiment.replay.ratio,
        mix=resolve_mix(experiment.tasks.mix),
        templates=templates,
        names=names,
        old=frozenset(experiment.languages.l1),
        pairs=parallel.pairs,
        replay=pool,
    ).matched(cache_folder() / "matching")
    held_out = encode_held_out(plan, encoder, pairs, instructions)
    check_metrics(experiment, held_out)
    return Prepared(plan, encoder, parallel, counts, held_out)


def check_metrics(experiment: Experiment, held_out: Sequence[Encoded]) -> None:
    """Refuse a rule about a loss that this run does not measure, and a validation without data."""
    train, known = experiment.train, metrics_of(held_out)
    if train.validation and not known:
        raise ConfigError(
            "train.validation: nothing can be held out, as only a tenth of the pairs and of the replay pool may be; "
            "give more data, a corpus' `holdout`, or validation: null"
        )
    named = {f"train.stop.{k}.metric": rule.metric for k, rule in enumerate(train.stop)}
    if train.keep == "best":
        named["train.best_metric"] = train.best_metric
    for field, metric in named.items():
        if metric.removeprefix(PREFIX) not in known:
            raise ConfigError(f"{field} is {metric!r}, but only {', '.join(PREFIX + k for k in known)} are held out")


def make_encoder(experiment: Experiment, texts: Iterable[str] = ()) -> Encoder:
    """The experiment's tokenizer with its prompt format and limits; `model.vocabulary` adds pieces of the texts."""
    model, train = experiment.model, experiment.train
    check_quantization(model)
    seq2seq = names_encoder_decoder(model)
    if model.vocabulary and seq2seq:
        raise ModelError(
            f"model.vocabulary: {model.id!r} is an encoder-decoder, whose two sides share their embeddings, and only "
            "causal models can be extended; set vocabulary: null"
        )
    if train.loss_on != "target" and seq2seq:
        raise ConfigError(
            f"train.loss_on is {train.loss_on}, but {model.id!r} is an encoder-decoder, which predicts its target "
            "alone; use target"
        )
    tokenizer = load_tokenizer(model)
    if model.vocabulary:
        tokenizer = extend_tokenizer(tokenizer, texts, model.vocabulary).tokenizer
    own = {
        code: {name: value for name, value in (("max_prompt", one.prompt), ("max_target", one.target)) if value}
        for code, one in train.language_limits.items()
    }
    return Encoder.of_model(
        tokenizer,
        model,
        max_prompt=train.max_prompt_tokens,
        max_target=train.max_target_tokens,
        limits=own,
        seq2seq=seq2seq,
        every_answer=experiment.replay.loss_on == "all_turns",
        form=experiment.cleaning.form,
    )


def new_texts(pairs: pa.Table, new: list[str]) -> Iterator[str]:
    """The texts of the new languages, once per side, from which a vocabulary is learned."""
    for side in ("source", "target"):
        chosen = pairs.filter(pc.is_in(pairs[f"{side}_language"], pa.array(new, pa.string())))
        yield from chosen[side].unique().to_pylist()
