"""Results of a search, read from the trials' files: every trial at every budget, the front, the winner and the
reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ialign_ray.config import SearchConfig
from ialign_ray.search.objective import SHOWN, best, pareto
from ialign_ray.storage import read_json, write_bytes, write_json

TABLE, PARETO_FRONT, WINNER = "trials.parquet", "front.json", "winner.json"
TRIALS = "trials"
POINT, OUTCOMES, STOPPED, FAILED = "point.json", "outcomes.json", "stopped.json", "failed.json"
"""Files of a trial."""


def trials_table(folder: Path) -> pd.DataFrame:
    """One row per trial and budget: `trial`, `point` (JSON), the point's fields, and the outcome's columns."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / TRIALS).glob(f"*/{POINT}")):
        point = read_json(path)
        known: dict[str, Any] = {"trial": path.parent.name, "point": json.dumps(point, sort_keys=True)}
        known |= {k: v if isinstance(v, int | float | str | None) else json.dumps(v) for k, v in point.items()}
        wrong = path.parent / FAILED
        outcomes = path.parent / OUTCOMES
        known["stopped"] = (path.parent / STOPPED).exists()
        rows += [{**known, **outcome} for outcome in (read_json(outcomes) if outcomes.exists() else [])]
        if wrong.exists():
            rows.append({**known, "failed": read_json(wrong)["message"], "last": False})
    return pd.DataFrame(rows)


def ends(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The last row of each trial."""
    if table.empty:
        return []
    rows = table.groupby("trial", sort=True).tail(1).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in rows]


def finished(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The last row of each trial that spent its full budget: only these can win."""
    # a trial that was stopped early has had less compute than those it would be compared with
    return [row for row in ends(table) if row.get("last") is True]


def front(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials that no other beats in both gain and forgetting, by falling gain."""
    rows = finished(table)
    return [rows[k] for k in pareto(rows)]


def winner(table: pd.DataFrame, search: SearchConfig) -> dict[str, Any] | None:
    """The chosen trial and the reason, or None if no trial spent its full budget."""
    rows = finished(table)
    k = best(rows)
    if k is None:
        return None
    row = rows[k]
    numbers = ("gain", "gain_low", "gain_high", "gain_n", "forgetting", "forgetting_low", "forgetting_high",
               "forgetting_n", "violation", "budget", "step", "tokens")  # fmt: skip
    return {
        "trial": row["trial"],
        "point": json.loads(row["point"]),
        "why": sentence(row, rows, search),
        "feasible": bool(row["feasible"]),
        # feasible by its estimate, but not shown by its interval
        "retention_shown": bool(row["forgetting_high"] <= search.tolerance),
        "rule": search.feasible,
        "tolerance": search.tolerance,
        "against": search.against,
        "trials_finished": len(rows),
        "trials": len(ends(table)),
        **{name: _plain(row[name]) for name in numbers},
    }


def is_chosen(found: Mapping[str, Any]) -> bool:
    """Return True if a search's winner is judged on the test rows: a merely nearest trial is, by the estimate alone."""
    return bool(found["feasible"]) or found["rule"] != SHOWN


def sentence(row: dict[str, Any], rows: Sequence[dict[str, Any]], search: SearchConfig) -> str:
    """Explain the choice, with intervals; a trial chosen among many seems better than it is."""
    gain = f"{row['gain']:.3f} [{row['gain_low']:.3f}, {row['gain_high']:.3f}] nats per token (n={row['gain_n']:.0f})"
    rise = f"{row['forgetting']:+.3f} [{row['forgetting_low']:+.3f}, {row['forgetting_high']:+.3f}]"
    able = sum(bool(r["feasible"]) for r in rows)
    bound = "upper bound" if search.feasible == SHOWN else "estimate"
    limit = f"{bound} at most {search.tolerance:g}, n={row['forgetting_n']:.0f}"
    kept = f"{rise} against the {search.against} ({limit})"
    if not row["feasible"]:
        return (
            f"no trial of {len(rows)} kept the old instructions within the tolerance; this one was nearest: loss on "
            f"them {kept}, gain over the control {gain}"
        )
    return (
        f"the largest gain over the control of equal compute, {gain}, among the {able} of {len(rows)} finished trials "
        f"that kept the old instructions: loss on them {kept}. The gain is biased upwards on the rows that "
        "chose it; the test rows decide"
    )


def _plain(value: Any) -> Any:
    number = float(value)
    return int(number) if math.isfinite(number) and number.is_integer() else number


def write_results(folder: Path, search: SearchConfig) -> dict[str, Any] | None:
    """Write `trials.parquet`, `front.json` and `winner.json`; return the winner."""
    table = trials_table(folder)
    write_bytes(folder / TABLE, table.to_parquet(index=False))
    columns = ("trial", "gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high", "feasible")
    write_json(
        folder / PARETO_FRONT, [{"point": json.loads(r["point"])} | {c: r[c] for c in columns} for r in front(table)]
    )
    found = winner(table, search)
    if found:
        write_json(folder / WINNER, found)
    return found
