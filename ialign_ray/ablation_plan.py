"""The runs of `ialign ablate`: every setting, the compute-matched control of each, and what is shared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ialign_ray.config import Experiment, override
from ialign_ray.errors import ConfigError
from ialign_ray.storage import json_hash

REFERENCE, CONTROL = "reference", "control"
_OF_ALIGNMENT = ("tasks.", "corpora.", "replay.ratio")
"""Fields without effect where every example is replay: controls that differ in these alone are one run."""


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    """Its changes in words; `reference` for the file's own values, `control` where all is replay."""
    changes: dict[str, Any]
    """Dotted fields -> values."""
    experiment: Experiment
    """The file with the changes."""
    control: str | None
    """The setting of equal compute without parallel text that it is measured against; None for a control itself."""

    def run(self, seed: int) -> str:
        """Folder name of its run with a seed."""
        plain = re.sub(r"[^\w.]+", "-", self.name).strip("-")[:60]
        unique = "" if self.name in (REFERENCE, CONTROL) else f"-{json_hash(self.changes)[:6]}"
        return f"{plain}{unique}-s{seed}"

    def seeded(self, seed: int) -> Experiment:
        """The experiment of its run with a seed."""
        return override(self.experiment, {"train.seed": seed})


def plan_ablation(experiment: Experiment) -> list[Setting]:
    """Every setting of `ablate`, controls first; settings that come to the same are one.

    Raises ConfigError for no axes, and for a value that its field does not take, before anything is trained.
    """
    if not experiment.ablate.axes:
        raise ConfigError("ablate.axes is empty; name fields and values, e.g. {replay.ratio: [0, 0.1, 0.5]}")
    controls: dict[str, Setting] = {}
    settings: dict[str, Setting] = {}
    for changes in _combinations(experiment):
        control = _control(experiment, changes)
        controls.setdefault(_content(control.experiment), control)
        name = controls[_content(control.experiment)].name
        made = Setting(_name(changes), changes, override(experiment, changes), name)
        if _content(made.experiment) not in controls and made.experiment.replay.ratio < 1:
            settings.setdefault(_content(made.experiment), made)
    return [*controls.values(), *settings.values()]


def _combinations(experiment: Experiment) -> Iterator[dict[str, Any]]:
    axes = experiment.ablate.axes
    if not experiment.ablate.one_at_a_time:
        yield from (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
        return
    yield {}
    yield from ({field: value} for field, values in axes.items() for value in values)


def _control(experiment: Experiment, changes: Mapping[str, Any]) -> Setting:
    kept = {field: value for field, value in changes.items() if not field.startswith(_OF_ALIGNMENT)}
    made = {**kept, "replay.ratio": 1.0}
    name = f"{CONTROL} ({_name(kept)})" if _content(override(experiment, kept)) != _content(experiment) else CONTROL
    return Setting(name, made, override(experiment, made), None)


def _name(changes: Mapping[str, Any]) -> str:
    if not changes:
        return REFERENCE
    return ", ".join(f"{field}={_value(value)}" for field, value in changes.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _content(experiment: Experiment) -> str:
    """Equal for experiments that train the same weights, but for the seed."""
    return json_hash(experiment.model_dump(mode="json", include={"model", "corpora", "replay", "tasks", "train"}))
