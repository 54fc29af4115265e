"""What a verdict and a promotion claim, simulated: how often intervals cover, and how often nothing is called a gain.

Each row of the table has the figure of the rule before and of the present one, drawn from seeded data of which the
truth is known. Writes docs/results/statistics/simulations.json and RESULTS.md; two minutes on one core.

    make bench-statistics
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ialign_ray.config import build_experiment
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.metrics.bootstrap import Difference, estimates, resample_weights
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.classification import auc_draws, auc_length_fixed
from ialign_ray.evaluation.results.cells import CellDraws
from ialign_ray.evaluation.results.significance import holm
from ialign_ray.evaluation.results.training_luck import with_luck
from ialign_ray.evaluation.rules import forgetting_outcome
from ialign_ray.evaluation.suites.wrong_source import wrong_sources
from ialign_ray.pages import markdown_table
from ialign_ray.registry.attempts import Attempts
from ialign_ray.registry.evidence import Evidence, GateReferences, decide
from ialign_ray.search.objective import best
from ialign_ray.storage import write_text

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "statistics"
Row = tuple[str, str, float, float, str]
"""Line of the table, case, figure before, figure now, and what it should be."""


def percentile(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval that was used before."""
    low, high = np.quantile(draws[:, 1:], [0.025, 0.975], axis=1)
    return low, high


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of intervals that hold the truth."""
    return float(np.mean((low <= truth) & (truth <= high)))


def coverage(sims: int = 2000) -> Iterator[Row]:
    """6: a ratio estimator of few sentences, light and heavy tails."""
    cases: dict[str, tuple[int, Callable[..., np.ndarray], float]] = {
        "normal losses, n = 20": (20, lambda rng, shape: rng.normal(2, 0.6, shape), 2.0),
        "normal losses, n = 48": (48, lambda rng, shape: rng.normal(2, 0.6, shape), 2.0),
        "lognormal s = 1, n = 48": (48, lambda rng, shape: rng.lognormal(0, 1, shape), float(np.exp(0.5))),
        "lognormal s = 1.5, n = 48": (48, lambda rng, shape: rng.lognormal(0, 1.5, shape), float(np.exp(1.125))),
    }
    for name, (n, losses, truth) in cases.items():
        rng = np.random.default_rng(6)
        tokens = rng.integers(5, 60, (sims, n)).astype(float)
        weights = resample_weights(n)
        draws = ((tokens * losses(rng, tokens.shape)) @ weights) / (tokens @ weights)
        now = estimates(draws, [n] * sims, weights).bounds()
        yield "6 coverage", name, covered(*percentile(draws), truth), covered(*now, truth), ".95"


def recipe_draws(scores: np.ndarray, weights: np.ndarray) -> CellDraws:
    """A run of scores (seeds, sentences)."""
    draws = scores @ weights / scores.shape[1]
    n = scores.shape[1]
    return CellDraws(draws.mean(axis=0), n, n, tuple(draws[:, 0].tolist()), draws.astype(np.float32))


def luck(sims: int = 1000, n: int = 48) -> Iterator[Row]:
    """5: two arms of one recipe, or an arm that changes nothing against base."""
    weights = resample_weights(n, 300)
    for against in ("control", "base"):
        for seeds in (2, 3, 5):
            for spread in (0.03, 0.06):
                rng = np.random.default_rng(5)
                pairs = []
                for _ in range(sims):
                    hard = rng.normal(0, 0.2, n)
                    first, second = (
                        hard + spread * rng.normal(size=(seeds, 1)) + 0.2 * rng.normal(size=(seeds, n)) for _ in "ab"
                    )
                    second = second if against == "control" else hard[None] + 0.2 * rng.normal(size=(1, n))
                    pairs.append((recipe_draws(first, weights), recipe_draws(second, weights)))
                draws = np.stack([a.draws - b.draws for a, b in pairs])
                alone = estimates(draws, [n] * sims, weights)
                now, _ = with_luck(alone, pairs, (True, against == "control"), [None] * sims)
                low, high = percentile(draws)
                told = float(np.mean((low > 0) | (high < 0)))
                case = f"{seeds} seeds, s.d. {spread:g}, against {against}"
                yield "5 equal recipes found different", case, told, float(np.mean(now.p() < 0.05)), ".05"


def clusters(sims: int = 1500, articles: int = 60, each: int = 4) -> Iterator[Row]:
    """7: four sentences of an article share half of their variance."""
    rng = np.random.default_rng(7)
    n = articles * each
    values = np.repeat(rng.normal(0, 1, (sims, articles)), each, axis=1) + rng.normal(0, 1, (sims, n))
    by_row, by_article = resample_weights(n), resample_weights(articles)
    before = percentile(values @ by_row / n)
    drawn = values.reshape(sims, articles, each).mean(axis=2) @ by_article / articles
    now = estimates(drawn, [articles] * sims, by_article).bounds()
    yield "7 coverage with clusters", "60 articles of 4", covered(*before, 0.0), covered(*now, 0.0), ".95"


def lengths(sims: int = 300) -> Iterator[Row]:
    """8: AUC "at fixed length" of a score that is the length."""
    for n in (48, 130, 400):
        before, now = [], []
        for seed in range(sims):
            rng = np.random.default_rng(seed)
            gold = rng.integers(3, size=n)
            chars = np.exp(4.3 + 0.16 * gold + rng.normal(0, 0.35, n)).astype(int)
            scores = [[-c / 100, 0.0, c / 100] for c in chars]
            cell = Cell(
                pd.DataFrame({"label": gold, "chars": chars, "sum": scores}), np.arange(n), np.ones((n, 1)), "sum"
            )
            now.append(float(auc_length_fixed(cell)[0]))
            before.append(by_strata(chars[gold != 1], gold[gold != 1] > 0))
        told = np.nanmean(now) if np.isfinite(now).any() else np.nan
        yield (
            "8 AUC of length at fixed length",
            f"n = {n}",
            float(np.nanmean(before)),
            float(told),
            ".50, or too few rows",
        )


def by_strata(chars: np.ndarray, positive: np.ndarray) -> float:
    """AUC of the length inside up to 20 quantiles of length of eight rows or more, weighted by pairs."""
    bins = max(1, min(20, len(chars) // 8))
    edges = np.unique(np.quantile(chars, np.linspace(0, 1, bins + 1)[1:-1])) if bins > 1 else []
    stratum = np.searchsorted(edges, chars, side="right")
    total = pairs = 0.0
    for one in np.unique(stratum):
        inside = stratum == one
        count = float(positive[inside].sum() * (~positive[inside]).sum())
        if count:
            rows = np.arange(inside.sum())
            ones = np.ones((len(rows), 1))
            total += count * float(auc_draws(ones, rows, positive[inside], chars[inside].astype(float))[0])
            pairs += count
    return total / pairs if pairs else float("nan")


def sources() -> Iterator[Row]:
    """8: the wrong source of FLORES-like rows, three to six of an article in a row."""
    rng = np.random.default_rng(8)
    article = np.repeat(np.arange(281), rng.choice([2, 3, 4, 5], 281, p=[0.17, 0.3, 0.28, 0.25]))
    texts = [f"{k} " + "x" * int(size) for k, size in enumerate(rng.normal(130, 40, len(article)).clip(20))]
    chosen = wrong_sources(texts, [str(a) for a in article])
    before = float(np.mean(article == np.roll(article, -1)))
    yield "8 wrong source of the same article", "281 articles", before, float(np.mean(article == article[chosen])), "0"


def families() -> Iterator[Row]:
    """9: the smallest p after Holm's correction over 40 languages with a large gain in each."""
    rng = np.random.default_rng(9)
    weights = resample_weights(100)
    draws = (0.3 + rng.normal(0, 0.5, (40, 100))) @ weights / 100
    tail = np.minimum((draws[:, 1:] <= 0).sum(axis=1), (draws[:, 1:] >= 0).sum(axis=1))
    before = holm((2 * (tail + 1) / 1001).tolist()).min()
    now = holm(estimates(draws, [100] * 40, weights).p().tolist()).min()
    yield "9 least p after Holm", "40 languages, 1,000 resamples", float(before), float(now), "can be under .05"


def retries(sims: int = 600, n: int = 100) -> Iterator[Row]:
    """12: candidates that are no better than the champion, tried one after the other on one test set."""
    weights = resample_weights(n)
    for name, own in (("noise of their own", 1.0), ("the champion's luck shared", 0.3)):
        for tries in (5, 20):
            rng = np.random.default_rng(12)
            before = now = 0
            for _ in range(sims):
                champion = rng.normal(0, 1, n) * (1 - own)
                noise = rng.normal(0, 1, (tries, n))
                draws = (noise - champion) @ weights / n
                low, _ = percentile(draws)
                found = estimates(draws, [n] * tries, weights)
                late = [found.bounds(1 - Attempts(k + 1).alpha)[0][k] for k in range(tries)]
                before += bool((low > 0).any())
                now += bool((np.array(late) > 0).any())
            yield (
                "12 one of equal candidates promoted",
                f"{tries} tries, {name}",
                before / sims,
                now / sims,
                "at most .025",
            )


def experiment(tolerance: float = 0.05):
    """An experiment of one suite with an old and a new language."""
    suite = {
        "kind": "classification", "name": "mood", "path": "x.parquet", "columns": {"eng": "e", "jav": "j"},
        "labels": {"bad": {"eng": "bad"}, "good": {"eng": "good"}},
        "prompts": [{"name": "plain", "text": "{text}?"}],
    }  # fmt: skip
    return build_experiment(
        {
            "name": "simulated", "languages": {"l1": ["eng"], "l2": ["jav"]}, "model": {"id": "x"},
            "corpora": [{"name": "c", "path": "x", "columns": {"eng": "e", "jav": "j"}}],
            "evaluate": {"suites": [suite], "scorer": "sum", "tolerance": tolerance, "resamples": 300},
        },
        "simulated",
    )  # fmt: skip


def model(settings, name: str, strength: dict[str, float], seed: int, n: int = 600) -> Evidence:
    """A model whose scores see the right label with a strength by language; sentences have their own difficulty."""
    frames = []
    for language, seen in strength.items():
        gold = np.random.default_rng(70).integers(2, size=n)
        hard = np.random.default_rng([71, len(language), ord(language[0])]).normal(size=n)
        right = seen + hard + 0.3 * np.random.default_rng([seed, ord(language[0])]).normal(size=n)
        scores = np.where(np.arange(2) == gold[:, None], right[:, None], 0.0)
        frame = pd.DataFrame(
            {"suite": "mood", "prompt": "plain", "language": language, "id": [str(i) for i in range(n)]}
        )
        frames.append(frame.assign(label=gold, chars=30, sum=list(scores), mean=list(scores), calibrated=list(scores)))
    return Evidence(name, settings, {"mood": pd.concat(frames, ignore_index=True)})


def accuracy(evidence: Evidence, language: str) -> float:
    """Share of right answers."""
    rows = evidence.frames["mood"]
    rows = rows[rows["language"] == language]
    return float((np.stack(rows["sum"]).argmax(axis=1) == rows["label"]).mean())


def creep() -> Iterator[Row]:
    """10: ten candidates in a row, each better on the new language and a little worse on the old one."""
    settings = experiment(0.08)
    candidates = [model(settings, f"mine/{k + 1}", {"eng": 1.6 - 0.14 * k, "jav": 0.25 * k}, k) for k in range(11)]
    base, control = (
        model(settings, name, {"eng": 1.6, "jav": 0.0}, 50 + k) for k, name in enumerate(("base", "control"))
    )
    lost, promoted = [], []
    for guarded in (False, True):
        champion = best = candidates[0]
        passed = 0
        for candidate in candidates[1:]:
            # the rule before: the present champion alone
            mild = model(settings, "base", {"eng": -9.0, "jav": -9.0}, 60)
            others = GateReferences(base, control, champion, best) if guarded else GateReferences(mild, mild, champion)
            if decide(candidate, others).accepted:
                champion, passed = candidate, passed + 1
                best = max(best, candidate, key=lambda one: accuracy(one, "eng"))
        lost.append(accuracy(candidates[0], "eng") - accuracy(champion, "eng"))
        promoted.append(passed)
    yield "10 old work lost by ten candidates", f"promoted {promoted[0]} and {promoted[1]} of 10", *lost, "at most .08"


def choice() -> Iterator[Row]:
    """11: a candidate that is the champion, evaluated on the forty sentences that suit it best."""
    settings = experiment(0.3)
    champion, same = (model(settings, f"mine/{k}", {"eng": 1.0, "jav": 0.5}, k, 200) for k in (1, 2))
    base = model(settings, "base", {"eng": 1.0, "jav": -1.0}, 3, 200)
    rows = {
        name: e.frames["mood"].set_index(["language", "id"])["sum"].map(np.ptp)
        for name, e in (("a", same), ("b", champion))
    }
    gold = same.frames["mood"].set_index(["language", "id"])["label"]
    right = {
        name: (e.frames["mood"].set_index(["language", "id"])["sum"].map(np.argmax) == gold)
        for name, e in (("a", same), ("b", champion))
    }
    gap = (right["a"].astype(int) - right["b"].astype(int) + 1e-3 * (rows["a"] - rows["b"]))["jav"].sort_values()
    kept = set(gap.index[-40:])
    frame = same.frames["mood"]
    picked = Evidence("mine/2", settings, {"mood": frame[frame["id"].isin(kept)]})
    of_picked = {
        name: Evidence(name, settings, {"mood": e.frames["mood"][e.frames["mood"]["id"].isin(kept)]})
        for name, e in (("mine/1", champion), ("base", base), ("control", base))
    }
    before = decide(picked, GateReferences(of_picked["base"], of_picked["control"], of_picked["mine/1"]))
    try:
        now = decide(picked, GateReferences(base, base, champion)).accepted
    except RegistryError:
        now = False
    yield "11 promoted on forty ids of its choice", "the champion's equal", float(before.accepted), float(now), "0"


def controls(sims: int = 30) -> Iterator[Row]:
    """13: any training lifts the base a little; a later candidate that is its control and no more."""
    before = now = 0
    settings = experiment()
    for seed in range(sims):
        base = model(settings, "base", {"eng": 1.0, "jav": 0.2}, 5 * seed)
        champion = model(settings, "mine/1", {"eng": 1.0, "jav": 0.25}, 5 * seed + 1)
        control = model(settings, "control", {"eng": 1.0, "jav": 0.5}, 5 * seed + 2)
        candidate = model(settings, "mine/2", {"eng": 1.0, "jav": 0.5}, 5 * seed + 3)
        before += decide(candidate, GateReferences(base, base, champion)).accepted
        now += decide(candidate, GateReferences(base, control, champion)).accepted
    yield "13 no better than its control, promoted", "a later candidate", before / sims, now / sims, "at most .025"


def feasible(sims: int = 2000) -> Iterator[Row]:
    """14: the recorded grid as truth, seen with its intervals' noise; how often the winner truly forgets too much."""
    grid = pd.read_csv(RESULTS.parent / "search-grid" / "grid.csv")
    grid = grid[grid["last"]].reset_index(drop=True)
    errors = {k: ((grid[f"{k}_high"] - grid[f"{k}_low"]) / 3.92).to_numpy() for k in ("gain", "forgetting")}
    for noise in ("shared by the trials", "of their own"):
        for tolerance in (0.1, 0.28):
            rng = np.random.default_rng(14)
            broken = dict.fromkeys(("estimate", "shown"), 0)
            for _ in range(sims):
                size = 1 if noise.startswith("shared") else len(grid)
                seen = {k: grid[k] + error * rng.normal(size=size) for k, error in errors.items()}
                for rule in broken:
                    half = 1.96 * errors["forgetting"] if rule == "shown" else 0.0
                    beyond = seen["forgetting"] + half - tolerance
                    rows = [{"gain": g, "violation": v} for g, v in zip(seen["gain"], beyond, strict=True)]
                    k = best(rows)
                    # where none is feasible nothing is promoted
                    broken[rule] += k is not None and rows[k]["violation"] <= 0 and grid["forgetting"][k] > tolerance
            case = f"tolerance {tolerance:g}, noise {noise}"
            rates = broken["estimate"] / sims, broken["shown"] / sims
            yield "14 a winner truly beyond the tolerance", case, *rates, "at most .05"


def words() -> Iterator[Row]:
    """9: a proven loss within the limit."""
    kept = forgetting_outcome(Difference(-0.01, -0.015, -0.005, 400, 0.001), 0.02) == "kept"
    yield "9 a proven loss called kept", "-.010 [-.015, -.005], limit .02", 1.0, float(kept), "0"


SIMULATIONS = (luck, coverage, clusters, sources, lengths, words, families, creep, choice, retries, controls, feasible)


def main() -> None:
    """Run all simulations, or those named."""
    rows = [
        row
        for simulation in SIMULATIONS
        if simulation.__name__ in (sys.argv[1:] or [s.__name__ for s in SIMULATIONS])
        for row in simulation()
    ]
    table = markdown_table(
        ["claim", "case", "before", "now", "should be"],
        [[claim, case, shown(old), shown(new), aim] for claim, case, old, new, aim in rows],
        texts=2,
    )
    print(table)
    if len(sys.argv) == 1:
        named = [dict(zip(("claim", "case", "before", "now", "should_be"), row, strict=True)) for row in rows]
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_text(RESULTS / "simulations.json", json.dumps(named, indent=1) + "\n")
        write_text(
            RESULTS / "RESULTS.md",
            f"# What is claimed, simulated\n\n`make bench-statistics` writes this table.\n\n{table}",
        )


def shown(value: float) -> str:
    """A figure of three digits; too few rows for NaN."""
    return "too few rows" if value != value else f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1g}"


if __name__ == "__main__":
    main()
