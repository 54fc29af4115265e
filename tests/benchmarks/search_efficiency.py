"""Tokens that a search spends until it has the grid's best setting, replayed from a recorded grid of real trials.

    python tests/benchmarks/search_efficiency.py docs/results/search-grid/grid.csv [tolerance [penalty [min_budget]]]

The product's own searcher and Ray's own ASHA decide; only the training is looked up. Two trials run at a time, and each
takes as long as it has tokens. "Found" is a finished, feasible trial within 1 % of the gain of the grid's best feasible
one, or within that one's 95 % interval. A search that never finds it counts with all it spent.
"""

from __future__ import annotations

import heapq
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from ialign_ray.config import Domain, SearchConfig
from ialign_ray.search.driver import scheduler
from ialign_ray.search.objective import PENALTY
from ialign_ray.search.searchers import searcher

FIELDS = ["replay.ratio", "model.lora.rank", "train.learning_rate"]
SEEDS, WORKERS = 20, 2


@dataclass
class Grid:
    """The recorded trials."""

    rows: dict[tuple[float, ...], list[dict[str, Any]]]
    ends: list[int]
    tolerance: float
    penalty: float = PENALTY

    @classmethod
    def read(cls, path: Path, tolerance: float, penalty: float, first: float) -> Grid:
        table = pd.read_csv(path).sort_values("budget")
        table = table[table["budget"] >= first]
        rows = {tuple(k): [dict(r) for r in g.to_dict("records")] for k, g in table.groupby(FIELDS)}
        return cls(rows, sorted(int(b) for b in table["budget"].unique()), tolerance, penalty)

    @property
    def tokens(self) -> float:
        """What the whole grid took."""
        return float(sum(r[-1]["tokens"] for r in self.rows.values()))

    @property
    def best(self) -> dict[str, Any]:
        """The best feasible setting of the whole grid."""
        ends = [r[-1] for r in self.rows.values() if r[-1]["forgetting"] <= self.tolerance]
        return max(ends, key=lambda r: r["gain"])

    def space(self) -> dict[str, Domain]:
        """The grid as a space."""
        return {f: Domain(choice=sorted({k[i] for k in self.rows})) for i, f in enumerate(FIELDS)}

    def result(self, row: dict[str, Any]) -> dict[str, Any]:
        """A recorded row as a trial reports it."""
        violation = row["forgetting"] - self.tolerance
        score = row["gain"] - self.penalty * max(0.0, violation)
        return row | {"violation": violation, "score": score, "failed": ""}


def replay(grid: Grid, search: SearchConfig) -> list[tuple[float, float]]:
    """(tokens spent by then, gain) of every feasible trial that ended, in the order of time."""
    chooser, stopper = searcher(search, WORKERS), scheduler(search, grid.ends)
    spent, found, number = 0.0, [], 0
    queue: list[tuple[float, int, Any, list[dict[str, Any]], int]] = []

    def begin(now: float) -> None:
        nonlocal number
        config = chooser.suggest(f"t{number}")
        if isinstance(config, dict):
            trial = SimpleNamespace(trial_id=f"t{number}", config=config)
            stopper.on_trial_add(None, trial)
            rows = grid.rows[tuple(float(config["point"][f]) for f in FIELDS)]
            heapq.heappush(queue, (now + rows[0]["tokens"], number, trial, rows, 0))
            number += 1

    for _ in range(WORKERS):
        begin(0.0)
    while queue:
        now, order, trial, rows, k = heapq.heappop(queue)
        result = grid.result(rows[k])
        spent += rows[k]["tokens"] - (rows[k - 1]["tokens"] if k else 0)
        if not result["last"] and stopper.on_trial_result(None, trial, result) == "CONTINUE":
            chooser.on_trial_result(trial.trial_id, result)
            heapq.heappush(queue, (now + rows[k + 1]["tokens"] - rows[k]["tokens"], order, trial, rows, k + 1))
            continue
        if result["last"] and result["violation"] <= 0:
            found.append((spent, result["gain"]))
        chooser.on_trial_result(trial.trial_id, result)
        chooser.on_trial_complete(trial.trial_id, result)
        stopper.on_trial_complete(None, trial, result)
        begin(now)
    return [*found, (spent, -np.inf)]


def until(found: list[tuple[float, float]], enough: float) -> tuple[float, bool]:
    """Tokens until a gain of `enough`, and whether it was reached."""
    return next(((spent, True) for spent, gain in found if gain >= enough), (found[-1][0], False))


def main() -> None:
    """Print the table."""
    given = sys.argv[2:]
    tolerance, penalty, first = (float(a) for a in [*given, *("0.25", "1", "6")[len(given) :]])
    grid = Grid.read(Path(sys.argv[1]), tolerance, penalty, first)
    best = grid.best
    print(f"{len(grid.rows)} settings, {grid.tokens:,.0f} tokens, budgets {grid.ends}")
    print(f"tolerance {tolerance:g}, penalty {penalty:g}")
    print(f"best feasible: { {f: best[f] for f in FIELDS} }, gain {best['gain']:.3f} [{best['gain_low']:.3f}, "
          f"{best['gain_high']:.3f}], forgetting {best['forgetting']:.3f}\n")  # fmt: skip
    print(f"share of the grid's tokens until found, mean [min, max] over {SEEDS} seeds:")
    print("| searcher + scheduler | within 1 % | found | within the interval | found |")
    print("|---|---|---|---|---|")
    for name, stop in (("random", "none"), ("random", "asha"), ("tpe", "none"), ("tpe", "asha")):
        cells = []
        runs = [
            replay(grid, SearchConfig(space=grid.space(), searcher=name, scheduler=stop, trials=len(grid.rows), seed=s))
            for s in range(SEEDS)
        ]
        for enough in (0.99 * best["gain"], best["gain_low"]):
            reached = [until(run, enough) for run in runs]
            shares = [spent / grid.tokens for spent, _ in reached]
            cells.append(f"{np.mean(shares):.1%} [{min(shares):.1%}, {max(shares):.1%}]")
            cells.append(f"{sum(ok for _, ok in reached)} of {SEEDS}")
        print(f"| {name} + {stop} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
