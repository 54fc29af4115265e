"""Mutation test of the core: break one thing at a time, and count whether the quick tests and all tests notice.

    python tests/benchmarks/mutation.py docs/results/mutation/mutants.json

Each mutant changes one line in a copy of the tree. Its room's quick tests run first, and where they pass its slow ones;
tests under Ray are left out, so "all" is a lower bound. Results are kept as they come: the same command continues.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NEVER = "not ray and not browser and not cluster"
QUICK, SLOW = f"not slow and not nightly and {NEVER}", f"(slow or nightly) and {NEVER}"


class Mutant(NamedTuple):
    """One thing that is broken."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
    """Below tests/unit."""


MUTANTS = [
    Mutant(
        "replay ratio is off by one example",
        "tasks/mixture.py",
        "replay = (i + 1) * ratio.numerator",
        "replay = (i + 2) * ratio.numerator",
        "tasks",
    ),
    Mutant(
        "every epoch has the same order",
        "tasks/mixture.py",
        "default_rng([seed, int(replay), epoch])",
        "default_rng([seed, int(replay), 0])",
        "tasks",
    ),
    Mutant(
        "noise drops no word",
        "tasks/noise.py",
        "rng.random() >= noise.delete",
        "rng.random() >= 0",
        "tasks corpus/test_versions.py",
    ),
    Mutant(
        "XSS matches 60 %",
        "tasks/alignment.py",
        "match = rng.random() < 0.5",
        "match = rng.random() < 0.6",
        "tasks corpus/test_versions.py",
    ),
    Mutant(
        "a negative may be the translation",
        "tasks/negatives.py",
        "if not self._translates(i, text, pair):",
        "if True:",
        "tasks",
    ),
    Mutant(
        "targets have no EOS",
        "tokens/encode.py",
        "return [*self.label(text), int(self.tokenizer.eos_token_id)]",
        "return self.label(text)",
        "tokens corpus/test_versions.py training/test_loop.py",
    ),
    Mutant(
        "prompts are cut at the limit only",
        "tokens/encode.py",
        "while len(prompt_ids) > self.max_prompt:",
        "while len(prompt_ids) > 2 * self.max_prompt:",
        "tokens",
    ),
    Mutant(
        "a spoiled block of examples is used",
        "tokens/cache.py",
        "if hashlib.sha256(body).digest() != digest.to_pybytes():",
        "if False:",
        "tokens",
    ),
    Mutant(
        "workers share an example",
        "streaming/examples.py",
        "return range(rank * batch_size // world, (rank + 1) * batch_size // world)",
        "return range(rank * batch_size // world, (rank + 1) * batch_size // world + (rank + 1 < world))",
        "streaming training/test_workers.py",
    ),
    Mutant(
        "a resumed stream starts a step late",
        "streaming/examples.py",
        "return (start + step) * batch_size + places.start + place",
        "return (start + step + (start > 0)) * batch_size + places.start + place",
        "streaming",
    ),
    Mutant(
        "an overlap at the threshold is no leak",
        "corpus/leaks.py",
        "return self.overlap(texts) >= self.threshold",
        "return self.overlap(texts) > self.threshold",
        "corpus/test_leaks.py corpus/test_build.py tasks/test_replay.py",
    ),
    Mutant(
        "splits ignore shared texts",
        "corpus/splits.py",
        'for name in ["id", *(c for c in measures.columns if c.startswith(_LINK))]:',
        'for name in ["id"]:',
        "corpus/test_splits.py corpus/test_build.py",
    ),
    Mutant(
        "ratio drops short sides alone",
        "corpus/cleaning/ratio.py",
        "for sign in (-1, 1))",
        "for sign in (-1, 9))",
        "corpus/test_cleaning_corpus.py corpus/test_versions.py",
    ),
    Mutant(
        "a row without a pair stays",
        "corpus/shards.py",
        "return pivot & other",
        "return pivot | other",
        "corpus/test_build.py corpus/test_versions.py",
    ),
    Mutant(
        "warm-up starts at zero",
        "training/loop.py",
        "return settings.learning_rate * (step + 1) / warmup",
        "return settings.learning_rate * step / warmup",
        "training/test_loop.py",
    ),
    Mutant(
        "biases are decayed",
        "training/loop.py",
        '"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0',
        '"params": [p for p in trained if p.ndim <= 1], "weight_decay": settings.weight_decay',
        "training/test_loop.py",
    ),
    Mutant(
        "the loss is the sum",
        "training/step.py",
        "(summed / total).backward()",
        "summed.backward()",
        "training/test_loop.py training/test_packing.py training/test_workers.py",
    ),
    Mutant(
        "dropout does not depend on the step",
        "training/step.py",
        "torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)",
        "torch.manual_seed(seed * 4_099 + rank)",
        "training/test_loop.py",
    ),
    Mutant(
        "a torn file passes for whole",
        "storage.py",
        "return next((name for name, digest in files.items() if not _has_hash(folder / name, digest)), None)",
        "return None",
        "test_storage.py training/test_loop.py",
    ),
    Mutant(
        "the ledger keeps lost steps",
        "training/run_log.py",
        'if int(part.name.partition("-")[2]) > start:',
        "if False:",
        "training/test_loop.py training/test_survival.py",
    ),
    Mutant(
        "a spike is any rise",
        "training/spikes.py",
        "return middle + deviations * max(spread, FLOOR * abs(middle))",
        "return middle",
        "training/test_spikes.py",
    ),
    Mutant(
        "patience is one less",
        "training/stopping.py",
        "if since < patience:",
        "if since < patience - 1:",
        "training/test_stopping.py training/test_watched_runs.py",
    ),
    Mutant(
        "the calibrated scorer adds the prior",
        "inference/calibration.py",
        "return scores.log_prob - prior(content_free.log_prob)",
        "return scores.log_prob + prior(content_free.log_prob)",
        "inference evaluation/test_prompted_suites.py",
    ),
    Mutant(
        "a gain needs no interval",
        "evaluation/rules.py",
        "if better.low > 0:\n        return GAINED",
        "if better.value > 0:\n        return GAINED",
        "evaluation/test_verdict.py registry/test_gate.py registry/test_gate_and_verdict.py",
    ),
    Mutant(
        "tolerance counts twice",
        "evaluation/rules.py",
        "if better.low >= -tolerance:",
        "if better.low >= -2 * tolerance:",
        "evaluation/test_verdict.py registry/test_gate.py registry/test_gate_and_verdict.py",
    ),
    Mutant(
        "resamples are not of sentences drawn with replacement",
        "evaluation/metrics/bootstrap.py",
        "weights[:, 1:] = counts.T",
        "weights[:, 1:] = 1",
        "evaluation/test_bootstrap.py evaluation/test_results.py",
    ),
    Mutant(
        "the gate needs no old language",
        "registry/gate.py",
        "if OLD not in measured:",
        "if False:",
        "registry/test_gate.py",
    ),
    Mutant(
        "forgetting beyond the tolerance is feasible",
        "search/objective.py",
        "return self.violation <= 0",
        "return self.violation <= 1",
        "search/test_search_objective.py search/test_search_results.py",
    ),
    Mutant(
        "the engine admits one row too many",
        "serving/engine/schedule.py",
        "if rows > limits.max_batch or",
        "if rows > limits.max_batch + 1 or",
        "serving/test_engine_schedule.py serving/test_engine.py",
    ),
    Mutant(
        "any key opens",
        "serving/keys.py",
        "if hmac.compare_digest(known, digest):",
        "if True:",
        "serving/test_api_keys.py",
    ),
    Mutant(
        "a plug-in may replace a built-in name",
        "plugins.py",
        "return self._builtin[name] if name in self._builtin else self._plugins[0][name]",
        "return self._plugins[0].get(name) or self._builtin[name]",
        "test_plugins.py",
    ),
    Mutant(
        "an error loses its kind between processes",
        "errors.py",
        'return own.get(data["kind"], IalignError)(data["message"])',
        'return IalignError(data["message"])',
        "test_errors.py",
    ),
]


def noticed(tree: Path, mutant: Mutant, marks: str) -> str | None:
    """The first test that fails, None where none does."""
    tests = [f"tests/unit/{name}" for name in mutant.tests.split()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
        "-m",
        marks,
        *tests,
    ]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode in (0, 5):  # all passed, or none has these marks
        return None
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    return (failed or ["the tests cannot be collected"])[0].rpartition("/")[2]


def run(tree: Path, mutant: Mutant) -> dict[str, object]:
    """Break one thing in the tree, and mend it again."""
    path, began = tree / "ialign_ray" / mutant.file, time.monotonic()
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant.right) == 1, f"{mutant.file}: {mutant.right!r} is there {text.count(mutant.right)} times"
    try:
        path.write_text(text.replace(mutant.right, mutant.wrong), encoding="utf-8")
        quick = noticed(tree, mutant, QUICK)
        return {
            "file": mutant.file,
            "quick": quick,
            "all": quick or noticed(tree, mutant, SLOW),
            "seconds": round(time.monotonic() - began),
        }
    finally:
        path.write_text(text, encoding="utf-8")


def main(results: Path) -> None:
    """Run what is missing, and print the table."""
    known = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache"))
        for mutant in MUTANTS:
            if mutant.name not in known:
                known[mutant.name] = run(tree, mutant)
                results.parent.mkdir(parents=True, exist_ok=True)
                results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print("| broken | file | quick tests | all tests |\n|---|---|---|---|")
    for name, found in known.items():
        print(f"| {name} | `{found['file']}` | {found['quick'] or '**missed**'} | {found['all'] or '**missed**'} |")
    counts = [sum(bool(found[tier]) for found in known.values()) for tier in ("quick", "all")]
    print(f"\nNoticed by the quick tests: {counts[0]} of {len(known)}; by all but those under Ray: {counts[1]}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
