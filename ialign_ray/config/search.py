"""`search`: the space, objective and budget of `ialign tune`."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.base import Section

SEARCHED = (
    "replay.ratio",
    "replay.pool_size",
    "model.lora",
    "tasks.mix",
    "train.learning_rate",
    "train.warmup",
    "train.schedule",
    "train.weight_decay",
    "train.clip_norm",
    "train.batch_size",
    "train.steps",
    "train.seed",
)
"""Fields and sections that a search may vary; others would change the basis on which trials are compared."""


class Domain(Section):
    """The values of one field: exactly one of the four forms."""

    choice: list[Any] | None = Field(None, min_length=1)
    """Any of these values, unordered."""
    grid: list[Any] | None = Field(None, min_length=1)
    """Each of these values: `grid` and `random` cross them with the other fields, other searchers choose among them."""
    uniform: tuple[float, float] | None = None
    """Range from the first number to the second; integers if the field is an integer."""
    log_uniform: tuple[float, float] | None = None
    """Range from the first number to the second, uniform in the logarithm."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [n for n in ("choice", "grid", "uniform", "log_uniform") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of choice, grid, uniform and log_uniform, not {len(given)}")
        if bounds := self.bounds:
            low, high = bounds
            if not low < high:
                raise ValueError(f"{given[0]} goes from {low:g} to {high:g}; the first number must be the smaller")
            if self.log_uniform and low <= 0:
                raise ValueError(f"log_uniform starts at {low:g}; a logarithm needs numbers above 0")
        return self

    @property
    def values(self) -> list[Any] | None:
        """The values, if there are finitely many."""
        return self.choice if self.choice is not None else self.grid

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The ends of the range, otherwise."""
        return self.uniform or self.log_uniform

    @property
    def largest(self) -> int:
        """Largest number that is sampled as an integer."""
        return int(max(self.values or self.bounds or ()))


class SearchConfig(Section):
    """Forgetting-aware search: maximise the gain on new languages among settings that forget within the tolerance."""

    space: dict[str, Domain] = Field(min_length=1)
    """Dotted field -> its values, e.g. `replay.ratio: {choice: [0, 0.25, 0.5]}`."""
    searcher: Literal["grid", "random", "tpe", "nsga2"] = "tpe"
    """Choice of the next settings: `grid` tries all, `random` samples, `tpe` and `nsga2` are Optuna's and use the
    retention constraint."""
    trials: int = Field(20, ge=1)
    """Number of settings to try; `grid` tries all of them."""
    seed: int = Field(0, ge=0)
    """Random seed of the searcher."""
    objective: Literal["gain", "front"] = "gain"
    """`gain`: the gain under the tolerance. `front`: gain and retention as two objectives (TPE, NSGA-II)."""
    tolerance: float = Field(0.1, ge=0)
    """Nats per token by which the loss on held-out old instructions may rise."""
    feasible: Literal["shown", "estimate"] = "shown"
    """`shown`: the upper bound of the forgetting's 95 % interval is within the tolerance. `estimate`: the point
    estimate is, which a winner that truly forgets more passes in a quarter to a half of the searches."""
    against: Literal["base", "control"] = "base"
    """Reference of the rise: `base` is the untrained model, `control` the replay-only run of equal compute."""
    scheduler: Literal["none", "asha"] = "asha"
    """`asha` stops poor trials early, at equal budgets (arXiv 1810.05934); `none` runs all to the end."""
    unit: Literal["steps", "tokens"] = "steps"
    """Unit of budgets, in which the control's compute is matched too."""
    budget: int | None = Field(None, ge=1)
    """Budget of a full trial; `train.steps` if omitted and the unit is steps."""
    min_budget: int | None = Field(None, ge=1)
    """The first budget at which a trial is validated and may be stopped; a ninth of `budget` if omitted."""
    reduction: int = Field(3, ge=2)
    """Factor from one budget to the next; the same fraction of trials continues to it."""
    confirm_seeds: list[int] = Field(default_factory=list)
    """Seeds with which the winner and its control are trained again before the one use of the test rows: the verdict
    then covers the luck of training."""
    concurrent: int | None = Field(None, ge=1)
    """Most trials at a time; as many as the cluster has room for if omitted."""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPUs that a trial reserves, and its number of threads."""
    gpus_per_trial: float | None = Field(None, ge=0)
    """GPUs that a trial reserves, 0.25 for four trials on one; 1 if omitted and the cluster has any."""

    @model_validator(mode="before")
    @classmethod
    def _retired(cls, value: Any) -> Any:
        """Accept keys of earlier versions: finished runs and registry versions contain the whole file they were made
        with."""
        if not isinstance(value, dict):
            return value
        for field, old, new in (("searcher", "bohb", "tpe"), ("scheduler", "hyperband", "asha")):
            if value.get(field) == old:
                raise ValueError(f"{field} {old!r} was removed; set {field}: {new}")
        return {k: v for k, v in value.items() if k != "penalty"}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.searcher == "grid" and (endless := [k for k, d in self.space.items() if d.bounds]):
            raise ValueError(f"`grid` cannot try all values of {endless[0]}; give it `choice` or `grid`")
        if self.unit == "tokens" and self.budget is None:
            raise ValueError("`unit: tokens` needs `budget`, the tokens of a full trial")
        if self.unit == "tokens" and "train.steps" in self.space:
            raise ValueError("`train.steps` cannot be searched where `budget` counts tokens; set unit: steps")
        return self
