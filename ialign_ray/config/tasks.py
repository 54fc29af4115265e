"""Task mixes by name, as the ablations of InstructAlign (arXiv 2305.13627) name them."""

from __future__ import annotations

from collections.abc import Mapping

from ialign_ray.errors import ConfigError

TASKS = ("mlm", "tlm", "mt", "xss")

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
    """Weights per task that sum to 1. Raises ConfigError for an unknown name or task or a bad weight."""
    if isinstance(mix, str):
        if mix not in MIXES:
            raise ConfigError(f"tasks.mix {mix!r} is not known; use one of {', '.join(MIXES)}, or weights per task")
        return {task: 1 / len(MIXES[mix]) for task in MIXES[mix]}
    for task, weight in mix.items():
        if task not in TASKS:
            raise ConfigError(f"tasks.mix: task {task!r} is not known; use {', '.join(TASKS)}")
        if not 0 <= weight < float("inf"):
            raise ConfigError(f"tasks.mix.{task} is {weight}; give a weight of 0 or more")
    total = sum(mix.values())
    if total <= 0:
        raise ConfigError("tasks.mix: all weights are 0; give one task a weight above 0")
    return {task: weight / total for task, weight in mix.items() if weight > 0}
