"""Task mixes by name, as in the ablations of InstructAlign (arXiv 2305.13627)."""

from __future__ import annotations

from collections.abc import Mapping

from ialign_ray.errors import ConfigError

_BASES: dict[str, tuple[str, ...]] = {
    "mlm": ("mlm",),
    "monolingual": ("mlm",),
    "tlm": ("tlm",),
    "bilingual": ("tlm",),
    "mt": ("mt",),
    "translation": ("mt",),
    "pair": ("mt", "tlm"),
    "random": ("mlm", "mt", "tlm"),
}
MIXES: dict[str, tuple[str, ...]] = {
    "xss": ("xss",),
    **_BASES,
    **{f"{name}-xss": (*tasks, "xss") for name, tasks in _BASES.items()},
}
"""Name -> tasks, each drawn equally often."""


def resolve_mix(mix: str | Mapping[str, float]) -> dict[str, float]:
    """Return weights per task that sum to 1. Raises ConfigError for an unknown mix or a bad weight.

    Names of tasks are checked by `ialign_ray.tasks.templating.experiment_templates`, since plug-ins add tasks.
    """
    if isinstance(mix, str):
        if mix not in MIXES:
            raise ConfigError(f"tasks.mix {mix!r} is not known; use one of {', '.join(MIXES)}, or weights per task")
        return {task: 1 / len(MIXES[mix]) for task in MIXES[mix]}
    for task, weight in mix.items():
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"tasks.mix.{task} is {weight}; give a weight of 0 or more")
    total = sum(mix.values())
    if total <= 0:
        raise ConfigError("tasks.mix: all weights are 0; give one task a weight above 0")
    return {task: weight / total for task, weight in mix.items() if weight > 0}
