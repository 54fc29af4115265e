"""Data shared by all trials of a search, prepared once by the driver: weights, data, held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ialign_ray.config import Experiment, ValidationConfig, override
from ialign_ray.errors import ConfigError
from ialign_ray.modeling.load import load_base, load_tokenizer
from ialign_ray.modeling.vocabulary import extend_embeddings
from ialign_ray.search.budget import budgets, trial_budgets, whole_budget
from ialign_ray.search.objective import References
from ialign_ray.search.space import Point, point_name, search_of, variant
from ialign_ray.search.trial import TrialContext, TrialRun
from ialign_ray.search.trial_cache import (
    ExampleCache,
    Key,
    SharedModel,
    base_model,
    cache_key,
    open_example_cache,
    share,
)
from ialign_ray.storage import json_hash
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.prepare import Prepared, prepare
from ialign_ray.training.runs import start_record
from ialign_ray.training.validation import INSTRUCTIONS

SEARCH = "search"
_OF_PAIRS = ("replay.ratio", "replay.pool_size")
"""Fields that a control takes from the experiment, not the trial, since all of its examples are replay."""
PREFILLED = 8
"""Number of families (seed and mix) whose examples are encoded before the first trial; others are encoded by their
trials."""


def search_folder(experiment: Experiment) -> Path:
    """Folder of a search."""
    return Path(experiment.storage.runs).absolute() / experiment.name / SEARCH


def control_folder(experiment: Experiment, seed: int) -> Path:
    """The run folder of a seed's control."""
    return search_folder(experiment) / f"control-s{seed}"


def seeds(experiment: Experiment) -> list[int]:
    """Every seed that trials may have; each has a control."""
    domain = search_of(experiment).space.get("train.seed")
    return sorted({int(s) for s in (domain.values or [])}) if domain else [experiment.train.seed]


def control_of_trial(experiment: Experiment, point: Point) -> Path:
    """The run folder of the control that a trial is compared with."""
    return control_folder(experiment, int(point.get("train.seed", experiment.train.seed)))


def own_control_point(experiment: Experiment, point: Point) -> Point | None:
    """The replay-only control with a trial's settings (rate, rank, steps, seed); None if it is the default one."""
    kept = {k: v for k, v in point.items() if k not in _OF_PAIRS and not k.startswith("tasks.mix")}
    own = kept | control_point(int(point.get("train.seed", experiment.train.seed)))
    default = control_point(own["train.seed"])
    return None if variant(experiment, own) == variant(experiment, default) else own


def own_control_folder(experiment: Experiment, point: Point) -> Path:
    """The run folder of that control; the default control's if they are the same."""
    own = own_control_point(experiment, point)
    if own is None:
        return control_of_trial(experiment, point)
    return search_folder(experiment) / point_name(own).replace("trial-", "control-of-winner-")


def with_seed(point: Point, seed: int) -> Point:
    """The same settings with another training seed."""
    return {**point, "train.seed": seed}


def confirmation_folder(experiment: Experiment, point: Point) -> Path:
    """The run folder of a winner that is trained again with another seed."""
    return search_folder(experiment) / "confirmations" / point_name(point)


def confirming_seeds(experiment: Experiment, point: Point) -> list[int]:
    """Seeds of `search.confirm_seeds` that the trial itself does not have."""
    own = int(point.get("train.seed", experiment.train.seed))
    return [seed for seed in dict.fromkeys(search_of(experiment).confirm_seeds) if seed != own]


def confirmations(experiment: Experiment, point: Point) -> dict[Path, Point]:
    """Run folder -> settings of the winner and of its control with each confirming seed."""
    found: dict[Path, Point] = {}
    for seed in confirming_seeds(experiment, point):
        again = with_seed(point, seed)
        found[own_control_folder(experiment, again)] = own_control_point(experiment, again) or control_point(seed)
        found[confirmation_folder(experiment, again)] = again
    return found


def control_point(seed: int) -> Point:
    """The replay-only control: the experiment's settings except for the replay ratio."""
    return {"replay.ratio": 1.0, "train.seed": seed}


@dataclass(frozen=True)
class SearchContext:
    """Shared context, which every trial reads from Ray's object store."""

    experiment: Experiment
    ends: list[int]
    """Budgets."""
    model: SharedModel
    plan: Plan
    """Plan with all pairs and the whole replay pool."""
    encoder: Encoder
    made: dict[str, dict[Key, Encoded]]
    """Family -> examples encoded in advance."""
    held_out: list[Encoded]
    record: dict[str, Any]
    rows: list[int]
    data: str
    """Hash of everything that is the same for all trials."""
    references: Mapping[int, References] = field(default_factory=dict)
    """Seed -> base and control; empty while the controls are being trained."""

    def trial_context(self, device: torch.device) -> TrialContext:
        """Set up once the objects that all trials of one process share."""
        return TrialContext(base_model(self.model, device), self.held_out, self.record, self.data, self.rows, device)

    def example_cache(self, experiment: Experiment) -> ExampleCache:
        """The encoded examples of a trial's seed and mix."""
        example_cache = open_example_cache(self.plan, self.encoder, experiment)
        example_cache.made.update(self.made.get(cache_key(experiment), {}))
        return example_cache

    def trial(
        self, point: Point, folder: Path, example_cache: ExampleCache | None, trial_context: TrialContext
    ) -> TrialRun:
        """The run of one point."""
        search = search_of(self.experiment)
        experiment = variant(self.experiment, point)
        ends = trial_budgets(self.ends, experiment.train.steps) if "train.steps" in point else self.ends
        return TrialRun(
            experiment, folder, list(ends), search.unit, example_cache or self.example_cache(experiment), trial_context
        )


def assemble(experiment: Experiment, console: Console | None = None, *, cluster: bool = False) -> SearchContext:
    """Clean, decontaminate, hold out and encode once for all trials, and load the base's weights.

    Raises IalignError with one sentence.
    """
    prepared = prepare_all(experiment, console, cluster=cluster)
    search = search_of(experiment)
    ends = budgets(search, whole_budget(experiment, search))
    base = load_base(experiment.model)
    tokenizer = prepared.encoder.tokenizer
    extended = experiment.model.vocabulary is not None
    rows = extend_embeddings(base, load_tokenizer(experiment.model), tokenizer) if extended else []
    record = start_record(experiment, SEARCH, prepared, "")
    made = prefill(experiment, prepared, ends[-1] if search.unit == "steps" else experiment.train.steps)
    return SearchContext(
        experiment, ends, share(base), prepared.plan, prepared.encoder, made, list(prepared.held_out), record, rows,
        data_hash(prepared),
    )  # fmt: skip


def data_hash(prepared: Prepared) -> str:
    """Pools, templates and held-out rows as one hash."""
    plan = prepared.plan
    pools = [t.to_pydict() for t in (plan.pairs, plan.replay)]
    templates = [t.model_dump(mode="json") for t in plan.templates]
    return json_hash([pools, templates, [[e.row_id, e.prompt, e.target] for e in prepared.held_out], plan.names])


def prepare_all(experiment: Experiment, console: Console | None, *, cluster: bool) -> Prepared:
    """The pools that contain those of every trial, and the rows held out for selection, never from a test suite."""
    watched = experiment.train.validation or ValidationConfig()
    whole = override(
        experiment,
        {
            # any ratio above 0: otherwise no replay pool is read, and no old instructions are held out
            "replay.ratio": experiment.replay.ratio or 0.5,
            "replay.pool_size": None,
            "train.validation": watched.model_dump(mode="json"),
        },
    )
    prepared = prepare(whole, console, cluster=cluster)
    kinds = {e.source.partition("/")[0] for e in prepared.held_out}
    if kinds != {"pairs", INSTRUCTIONS}:
        missing = "pairs" if "pairs" not in kinds else "old instructions"
        raise ConfigError(
            f"search selects by held-out pairs and old instructions, and no {missing} can be held out (a tenth at "
            "most); add data, or a corpus' `holdout`"
        )
    return prepared


def prefill(experiment: Experiment, prepared: Prepared, steps: int) -> dict[str, dict[Key, Encoded]]:
    """Examples of the families known so far."""
    space = search_of(experiment).space
    mixes = space["tasks.mix"].values if "tasks.mix" in space else [experiment.tasks.mix]
    if mixes is None or any(field.startswith("tasks.mix.") for field in space):
        return {}
    batch = space.get("train.batch_size")
    size = batch.largest if batch else experiment.train.batch_size
    made = {}
    for seed, mix in [(s, m) for s in seeds(experiment) for m in mixes][:PREFILLED]:
        chosen = override(experiment, {"train.seed": seed, "tasks.mix": mix})
        example_cache = open_example_cache(prepared.plan, prepared.encoder, chosen)
        example_cache.fill(steps * size)
        made[cache_key(chosen)] = example_cache.made
    return made
