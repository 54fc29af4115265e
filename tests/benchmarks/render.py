"""Write the tables of docs/*.md from docs/results/bench/*.json: python tests/benchmarks/render.py"""

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


def serving_engine(found: dict[str, Any]) -> Iterable[str]:
    ways = ("one at a time", "transformers", "engine", "against transformers", "one adapter", "eight adapters")
    yield "| model, clients | " + " | ".join(ways) + " |"
    yield "|---" * (len(ways) + 1) + "|"
    for size in ("pocket", "100M"):
        for clients, run in ((k, v) for k, v in found.get(size, {}).items() if k.endswith("clients")):
            speed, eight = run["tokens_per_second"], run.get("eight_adapters_to_one")
            cells = [speed[way] for way in ("generate", "transformers", "engine")]
            adapters = [speed["engine, one adapter"], f"{eight:.0%} of it" if eight else ""]
            line = [f"{size}, {clients}", *cells, f"x{run['times_transformers']}", *adapters]
            yield "| " + " | ".join(map(str, line)) + " |"


def serving_http(found: dict[str, Any]) -> Iterable[str]:
    ways = ("ialign serve", "transformers serve", "transformers serve, continuous batching", "engine", "generate")
    heads = ("ialign serve", "transformers serve", "with continuous batching", "our engine alone", "one at a time")
    more = ("against transformers serve", "against its continuous batching", "HTTP adds", "a bare echo")
    yield "| model, clients | " + " | ".join([*heads, *more]) + " |"
    yield "|---" * (len(heads) + len(more) + 1) + "|"
    for size in ("pocket", "100M"):
        for clients, run in found.get(size, {}).items():
            speed, ms = run["requests_per_second"], run["ms_a_request"]
            ours = [run[f"times_transformers_serve{kind}"]["ialign serve"] for kind in ("", "_continuous")]
            adds = [ms["added by HTTP to the engine"], ms["echo through Ray Serve"]]
            cells = [*(speed[way] for way in ways), *(f"x{ratio}" for ratio in ours), *(f"{t:.0f} ms" for t in adds)]
            yield f"| {size}, {clients} | " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    render(DOCS / "speed.md", training_speed, pipeline, loss_memory, label_scoring)
    render(DOCS / "serving.md", serving_engine, serving_http)
    render(DOCS / "scale.md", scale_model)


def render(path: Path, *tables: Callable[[dict[str, Any]], Iterable[str]]) -> None:
    page = path.read_text(encoding="utf-8")
    for table in tables:
        kept = RESULTS / f"{table.__name__}.json"
        if not kept.exists():
            continue
        found = json.loads(kept.read_text(encoding="utf-8"))
        on = found["on"]
        name = table.__name__
        before, _, rest = page.partition(BEGIN.format(name))
        _, _, after = rest.partition(END.format(name))
        turns = "".join(f", {found[k]} {k}" for k in ("steps", "rounds") if k in found)
        machine = f"{on['device']}, {on['threads']} thread, torch {on['torch']}{turns}."
        text = "\n".join([BEGIN.format(name), *table(found), "", machine, END.format(name)])
        page = before + text + after
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
