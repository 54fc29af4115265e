"""Write tables of docs/speed.md and docs/scale.md from docs/results/bench/*.json: python tests/benchmarks/render.py"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from measuring import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"


def training_speed(found: dict[str, Any]) -> Iterable[str]:
    kinds = found["kinds"]
    yield "| way | " + " | ".join(f"{k} (mean {v['mean tokens']:.0f} tokens)" for k, v in kinds.items()) + " |"
    yield "|---" * (len(kinds) + 1) + "|"
    for way in next(iter(kinds.values()))["times_reference"]:
        cells = (f"x{v['times_reference'][way]} ({v['tokens_per_second'][way]:,})" for v in kinds.values())
        yield f"| {way} | " + " | ".join(cells) + " |"
    cells = (f"x{v['times_best_of_TRL']} ({v['best of TRL']})" for v in kinds.values())
    yield "| **ialign against the best of TRL** | " + " | ".join(cells) + " |"


def pipeline(found: dict[str, Any]) -> Iterable[str]:
    waits, first, times = found["data_wait_share"], found["first_wait_seconds"], found["times_bare"]
    yield "| run | useful tokens/s | against the bare loop | waits for data | first step waits |"
    yield "|---|---|---|---|---|"
    yield f"| bare loop | {found['tokens_per_second']['bare']:,} | | | |"
    for name, wait in waits.items():
        against = f"x{times[name]}" if name in times else f"(x{found['two_workers_times_one']} of one worker)"
        speed = found["tokens_per_second"][name]
        yield f"| {name} | {speed:,} | {against} | {100 * wait:.1f} % | {first[name]} s |"


def loss_memory(found: dict[str, Any]) -> Iterable[str]:
    size = f"vocabulary {found['vocabulary']:,}, {found['targets']} targets of {found['tokens']} tokens"
    yield f"| loss ({size}) | peak |"
    yield "|---|---|"
    for way, mib in found["peak_mib"].items():
        yield f"| {way} | {mib:,} MiB |"


def label_scoring(found: dict[str, Any]) -> Iterable[str]:
    sets = {name: v for name, v in found.items() if isinstance(v, dict) and "times_reference" in v}
    yield "| way | " + " | ".join(sets) + " |"
    yield "|---" * (len(sets) + 1) + "|"
    for way in next(iter(sets.values()))["times_reference"]:
        yield f"| {way} | " + " | ".join(f"x{v['times_reference'][way]}" for v in sets.values()) + " |"
    yield (
        "| **sorted against lm-eval** | " + " | ".join(f"x{v['times_lm_eval']['sorted']}" for v in sets.values()) + " |"
    )


def scale_model(found: dict[str, Any]) -> Iterable[str]:
    heads = "run | GPUs | state a GPU | step | network | efficiency | encoding CPUs | data | checkpoint | hours | $"
    yield f"| {heads} |"
    yield "|---" * len(heads.split("|")) + "|"
    for name, by_gpus in found["runs"].items():
        for gpus, v in by_gpus.items():
            if v["state GB"] > found["told"]["memory"] / 1e9:
                yield f"| {name} | {gpus} | {v['state GB']:.0f} GB: does not fit | | | | | | | | |"
                continue
            cells = (
                f"{v['state GB']:.1f} GB", f"{v['seconds']:.3f} s", f"{100 * v['network'] / v['seconds']:.0f} %",
                f"{100 * v['efficiency']:.0f} %", f"{v['encoding CPUs']:.1f}", f"{v['data MB/s']:.1f} MB/s",
                f"{v['checkpoint GB']:.1f} GB, {v['checkpoint']:.0f} s", f"{v['hours']:.1f}", f"{v['dollars']:,.0f}",
            )  # fmt: skip
            yield f"| {name} | {gpus} | " + " | ".join(cells) + " |"


TABLES = {"speed.md": (training_speed, pipeline, loss_memory, label_scoring), "scale.md": (scale_model,)}


def main() -> None:
    for page, tables in TABLES.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        for table in tables:
            text = filled(text, table)
        (DOCS / page).write_text(text, encoding="utf-8")


def filled(page: str, table: Callable[[dict[str, Any]], Iterable[str]]) -> str:
    """The page with one table written anew, where its numbers are there."""
    name = table.__name__
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return page
    found = json.loads(path.read_text(encoding="utf-8"))
    before, _, rest = page.partition(BEGIN.format(name))
    _, _, after = rest.partition(END.format(name))
    turns = "".join(f", {found[k]} {k}" for k in ("steps", "rounds") if k in found)
    on = found["on"]
    machine = f"{on['device']}, {on['threads']} thread, torch {on['torch']}{turns}."
    return before + "\n".join([BEGIN.format(name), *table(found), "", machine, END.format(name)]) + after


if __name__ == "__main__":
    main()
