"""How fast dirty parallel text is read, cleaned, deduplicated and written: this project, `datasets` and OpusFilter.

    python tests/benchmarks/corpus_scale.py                    # 300,000 pairs through all three, two processes each
    python tests/benchmarks/corpus_scale.py --pairs 10000000 --only ialign

The text is generated: Zipf-distributed words of two made-up languages, with 3 % repeated pairs, 1 % copies, and some
control characters, lone punctuation and lost halves. All three do the same steps on it: spaces and Unicode
normalised, control characters removed, empty, over-long and misproportioned sides, other scripts, differing numbers
and repeated pairs dropped. OpusFilter is run by its own command (`pip install opusfilter`), `datasets` as its
documentation does it: `map`, `filter` and `to_parquet` with two processes. Memory is the proportional set size of the
whole process tree, sampled every half second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

WORDS, BLOCK = 30_000, 100_000
CONTROL = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2060\ufeff]")
NUMBER = re.compile(r"[0-9]+")


def write_pairs(folder: Path, pairs: int) -> None:
    """`corpus.aaa` and `corpus.bbb`, the same for the same number of pairs."""
    draw = np.random.default_rng(0)
    names = [np.array(_vocabulary(draw)), np.array(_vocabulary(draw))]
    before: list[list[str]] = [["Start ."], ["Mula ."]]
    with (
        (folder / "corpus.aaa").open("w", encoding="utf-8") as one,
        (folder / "corpus.bbb").open("w", encoding="utf-8") as two,
    ):
        for start in range(0, pairs, BLOCK):
            count = min(BLOCK, pairs - start)
            sides = _block(draw, names, count)
            for k in np.flatnonzero(draw.random(count) < 0.03):
                place = int(draw.integers(len(before[0])))
                sides[0][k], sides[1][k] = before[0][place].upper(), before[1][place]
            before = sides
            one.write("\n".join(sides[0]) + "\n")
            two.write("\n".join(sides[1]) + "\n")


def _vocabulary(draw: np.random.Generator) -> list[str]:
    letters = np.array(list("abcdefghijklmnoprstuwyé"))
    return ["".join(draw.choice(letters, n)) for n in draw.integers(2, 10, WORDS)]


def _block(draw: np.random.Generator, names: list[np.ndarray], count: int) -> list[list[str]]:
    lengths = draw.integers(4, 18, count)
    numbers = np.where(draw.random(count) < 0.2, draw.integers(1, 2000, count), 0)
    sides = []
    for vocabulary in names:
        more = np.maximum(3, lengths + draw.integers(-1, 2, count))
        words = vocabulary[np.minimum(draw.zipf(1.3, int(more.sum())) - 1, WORDS - 1)]
        ends = np.cumsum(more)
        texts = [" ".join(words[end - n : end]) for end, n in zip(ends, more)]
        sides.append([f"{t} {n} ." if n else f"{t} ." for t, n in zip(texts, numbers)])
    for k in np.flatnonzero(draw.random(count) < 0.01):
        sides[1][k] = sides[0][k]
    for k in np.flatnonzero(draw.random(count) < 0.01):
        sides[1][k] = sides[1][k].replace(" ", " \u200b\u0007 ", 1)
    for k in np.flatnonzero(draw.random(count) < 0.005):
        sides[1][k] = "..."
    for k in np.flatnonzero(draw.random(count) < 0.005):
        sides[1][k] = sides[1][k] * 8
    return sides


def ialign(folder: Path, pairs: int) -> int:
    """This project, by its command."""
    experiment = {
        "name": "scale",
        "languages": {"l1": ["eng"], "l2": ["ind"]},
        "model": {"id": "none"},
        "corpora": [{"name": "corpus", "path": "corpus", "columns": {"eng": "aaa", "ind": "bbb"}}],
        "cleaning": {
            "steps": ["normalise", "characters", "empty", "length", "script", "numbers", "duplicates", "ratio"]
        },
        "storage": {"data": str(folder), "runs": str(folder / "runs")},
    }
    (folder / "experiment.yaml").write_text(json.dumps(experiment), encoding="utf-8")
    command = "from ialign_ray.cli.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", command, "data", "build", str(folder / "experiment.yaml")],
        check=True,
        stdout=sys.stderr,
    )
    [counts] = (folder / "runs" / "corpora" / "scale").glob("*/counts.json")
    rows: int = json.loads(counts.read_text())["corpora"]["corpus"]["splits"]["train"]["rows"]
    return rows


def clean(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    """The row steps of `datasets`."""
    return {
        side: [" ".join(CONTROL.sub("", unicodedata.normalize("NFC", text)).split()) for text in batch[side]]
        for side in ("a", "b")
    }


def sound(batch: dict[str, list[str]]) -> list[bool]:
    """Which rows are kept."""
    return [_sound(a, b) for a, b in zip(batch["a"], batch["b"])]


def _sound(a: str, b: str) -> bool:
    for text in (a, b):
        words = text.split()
        if not any(c.isalnum() for c in text) or len(text) > 2000 or len(words) > 400 or max(map(len, words)) > 200:
            return False
        letters = [c for c in text if c.isalpha()]
        if letters and sum("LATIN" in unicodedata.name(c, "") for c in letters) < 0.5 * len(letters):
            return False
    one, two = sorted(NUMBER.findall(a)), sorted(NUMBER.findall(b))
    if len(set(one) & set(two)) < 0.5 * max(len(one), len(two)):
        return False
    return max(len(a), len(b)) <= 3 * min(len(a), len(b))


def hugging_face(folder: Path, pairs: int) -> int:
    """The same steps with `datasets`."""
    command = "import sys, tests_corpus_scale as t; print(t.run_datasets(sys.argv[1]))"
    shutil.copyfile(__file__, folder / "tests_corpus_scale.py")
    done = subprocess.run(
        [sys.executable, "-c", command, str(folder)], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    return int(done.stdout.split()[-1])


def run_datasets(folder: str) -> int:
    """In a process of its own, so that its memory can be told."""
    import datasets

    datasets.disable_progress_bars()
    sides = [
        datasets.load_dataset("text", data_files=f"{folder}/corpus.{s}", split="train", cache_dir=f"{folder}/hf")
        for s in ("aaa", "bbb")
    ]
    table = datasets.concatenate_datasets([s.rename_column("text", name) for s, name in zip(sides, ("a", "b"))], axis=1)
    table = table.map(clean, batched=True, num_proc=2).filter(sound, batched=True, num_proc=2)
    seen: set[tuple[str, str]] = set()

    def first(batch: dict[str, list[str]]) -> list[bool]:
        kept = []
        for pair in zip(batch["a"], batch["b"]):
            key = tuple("".join(c for c in t.lower() if c.isalnum()) for t in pair)
            kept.append(key not in seen)
            seen.add(key)
        return kept

    table = table.filter(first, batched=True)
    table.to_parquet(f"{folder}/out.parquet")
    return len(table)


def opusfilter(folder: Path, pairs: int) -> int:
    """The same steps with OpusFilter's own command."""
    import yaml

    both = {"inputs": ["corpus.aaa", "corpus.bbb"]}
    removed = {"pattern": CONTROL.pattern, "repl": "", "count": 0, "flags": []}
    steps = [
        (
            "preprocess",
            both
            | {
                "outputs": ["p.aaa", "p.bbb"],
                "preprocessors": [
                    {"RegExpSub": {"patterns": [list(removed.values())]}},
                    {"WhitespaceNormalizer": {}},
                ],
            },
        ),
        (
            "filter",
            {
                "inputs": ["p.aaa", "p.bbb"],
                "outputs": ["f.aaa", "f.bbb"],
                "filters": [
                    {"LengthFilter": {"unit": "char", "min_length": 1, "max_length": 2000}},
                    {"LengthFilter": {"unit": "word", "min_length": 1, "max_length": 400}},
                    {"LongWordFilter": {"threshold": 200}},
                    {"LengthRatioFilter": {"unit": "char", "threshold": 3}},
                    {"CharacterScoreFilter": {"scripts": ["Latin", "Latin"], "thresholds": [0.5, 0.5]}},
                    {"NonZeroNumeralsFilter": {"threshold": 0.5}},
                ],
            },
        ),
        (
            "remove_duplicates",
            {
                "inputs": ["f.aaa", "f.bbb"],
                "outputs": ["d.aaa.gz", "d.bbb.gz"],
                "letters_only": True,
                "lowercase": True,
            },
        ),
    ]
    config = {
        "common": {"output_directory": str(folder), "default_n_jobs": 2},
        "steps": [{"type": kind, "parameters": parameters} for kind, parameters in steps],
    }
    (folder / "opusfilter.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    subprocess.run(
        [_opusfilter(), str(folder / "opusfilter.yaml")], check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL
    )
    counted = subprocess.run(f"zcat {folder}/d.aaa.gz | wc -l", shell=True, capture_output=True, text=True, check=True)
    return int(counted.stdout)


def _opusfilter() -> str:
    found = os.environ.get("OPUSFILTER") or shutil.which("opusfilter")
    if not found:
        sys.exit("opusfilter is not installed; pip install opusfilter, set OPUSFILTER to its command, or use --only")
    return found


PEERS = {"ialign": ialign, "datasets": hugging_face, "opusfilter": opusfilter}


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Peak of the process tree's proportional set size, in GiB."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**30)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Print a table and the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300_000)
    parser.add_argument("--only", choices=PEERS, action="append", help="may be repeated")
    parser.add_argument("--folder", type=Path, help="where the text is generated; a temporary folder when left out")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        write_pairs(folder, options.pairs)
        size = sum(p.stat().st_size for p in folder.iterdir()) / 2**20
        print(f"{options.pairs:,} pairs, {size:,.0f} MiB", flush=True)
        for name in options.only or PEERS:
            with peak_memory() as peak:
                began = time.perf_counter()
                kept = PEERS[name](folder, options.pairs)
                seconds = time.perf_counter() - began
            results[name] = {
                "seconds": round(seconds, 1),
                "rows_per_second": round(options.pairs / seconds),
                "kept": kept,
                "peak_gib": round(peak[0], 2),
            }
            print(name, results[name], flush=True)
    if "ialign" in results:
        for result in results.values():
            result["times_ialign"] = round(result["seconds"] / results["ialign"]["seconds"], 2)
    print(json.dumps({"pairs": options.pairs, "results": results}, indent=2))


if __name__ == "__main__":
    main()
