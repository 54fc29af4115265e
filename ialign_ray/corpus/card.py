"""The dataset card of a built corpus: its contents and sources, and what was dropped and why."""

from __future__ import annotations

from typing import Any

import yaml

from ialign_ray.config import Experiment
from ialign_ray.errors import ConfigError
from ialign_ray.languages import display_name


def dataset_card(experiment: Experiment, counts: dict[str, Any]) -> str:
    """Return README.md with the hub's front matter: `datasets.load_dataset(folder, CORPUS)` reads it."""
    front = {
        "pretty_name": experiment.name,
        "language": list(dict.fromkeys(code for c in experiment.corpora for code in c.languages)),
        "multilinguality": ["translation"],
        "tags": ["ialign", "parallel-corpus"],
        "configs": [_config(name, c) for name, c in counts["corpora"].items() if c["splits"]],
    }
    warned = "".join(f"- {w}\n" for w in counts["warnings"])
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {experiment.name}

Parallel text, version `{counts["version"]}`: one row per sentence, one column per language, null if a row lacks it;
`file` and `line` say where a row came from, `id` names it. The settings are in `experiment.yaml`, all counts in
`counts.json`, the texts that were dropped in `drops/` with the step that dropped each.

{"".join(_corpus(experiment, name, c) for name, c in counts["corpora"].items())}
## Steps

{_steps(experiment)}
{"## Warnings" + chr(10) * 2 + warned if warned else ""}"""


def _config(name: str, counts: dict[str, Any]) -> dict[str, Any]:
    files = [{"split": s, "path": f"data/corpus={name}/split={s}/*.parquet"} for s in counts["splits"]]
    return {"config_name": name, "data_files": files}


def _corpus(experiment: Experiment, name: str, counts: dict[str, Any]) -> str:
    corpus = next(c for c in experiment.corpora if c.name == name)
    splits = ", ".join(f"{s} {c['rows']:,}" for s, c in counts["splits"].items()) or "nothing left"
    steps = list(dict.fromkeys([*counts["dropped"], *counts["changed"]]))
    head = "".join(f" {s} |" for s in steps)
    lines = [
        f"## {name}\n",
        f"From {', '.join(f'`{f}`' for f in counts['files'][:5])}{' ...' if len(counts['files']) > 5 else ''}: "
        f"{counts['rows_in']:,} rows read, {counts['unreadable']:,} unreadable; {splits}.{_left_out(counts)}\n",
        f"| language | read |{head} kept |",
        "|---|---|" + "---|" * (len(steps) + 1),
    ]
    for code in corpus.languages:
        cells = "".join(f" {_cell(counts, step, code)} |" for step in steps)
        kept = sum(s["texts"].get(code, 0) for s in counts["splits"].values())
        lines.append(f"| {_name(experiment, code)} ({code}) | {counts['cells_in'].get(code, 0):,} |{cells} {kept:,} |")
    return "\n".join(lines) + "\n\n"


def _left_out(counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in counts["left_out"].items())
    return f" Left out by the state that the file gives them: {reasons}." if reasons else ""


def _cell(counts: dict[str, Any], step: str, code: str) -> str:
    dropped, changed = (counts[what].get(step, {}).get(code, 0) for what in ("dropped", "changed"))
    return " ".join([f"-{dropped:,}"] * bool(dropped) + [f"({changed:,} changed)"] * bool(changed)) or "0"


def _name(experiment: Experiment, code: str) -> str:
    try:
        return display_name(code, "eng", experiment.languages.names)
    except ConfigError:
        return code


def _steps(experiment: Experiment) -> str:
    lines = []
    for step in experiment.cleaning.steps:
        settings = step.model_dump(mode="json", exclude={"step"}, exclude_defaults=False)
        shown = ", ".join(f"{k} {v}" for k, v in settings.items() if v not in ({}, None))
        lines.append(f"1. {step.step}" + (f": {shown}" if shown else ""))
    leak = experiment.decontamination
    exact, overlap = "on" if leak.exact else "off", f"{leak.threshold:g}" if leak.threshold else "off"
    lines.append(f"1. leaks: equality {exact}, share of an evaluation sentence's {leak.ngram}-grams {overlap}")
    return "\n".join(lines)
