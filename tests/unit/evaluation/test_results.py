"""Tidy records, paired comparisons and the printed table."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import f1_score

from ialign_ray.errors import DataError
from ialign_ray.evaluation.report import tables
from ialign_ray.evaluation.results import cells, summary
from ialign_ray.pages import markdown_table

GROUPS = {"eng": "L1", "ind": "L1", "jav": "L2", "bug": "L3"}


def classified(strength=1.0, seed=0, count=200, prompts=("a", "b"), bonus=None):
    """A run whose scores see the gold label with `strength` (+ a bonus by language)."""
    rng = np.random.default_rng(seed)
    gold = np.random.default_rng(77).integers(3, size=count)
    chars = np.random.default_rng(78).integers(20, 200, size=count)
    frames = []
    for language in ("ind", "jav", "bug"):
        for prompt in prompts:
            seen = strength + (bonus or {}).get(language, 0.0)
            scores = rng.normal(size=(count, 3)) + seen * np.eye(3)[gold]
            frames.append(
                pd.DataFrame(
                    {
                        "suite": "nusax",
                        "prompt": prompt,
                        "language": language,
                        "id": [f"s{i}" for i in range(count)],
                        "label": gold,
                        "chars": chars,
                        "sum": list(scores),
                        "mean": list(scores / 2),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def translated(cost=2.0, count=60, seed=0, suite="flores", names=("eng-ind", "eng-jav", "bug-ind")):
    rng = np.random.default_rng(seed)
    frames = []
    for name in names:
        size = rng.integers(20, 100, size=count)
        nats = cost * np.log(2) * size + rng.normal(0, 2, count)
        wrong = np.where(np.arange(count) % 7 == 0, np.nan, nats + size * 0.1 * np.log(2))
        columns = {"nats": nats, "tokens": size // 3, "bytes": size, "mismatched_nats": wrong}
        ids = [f"s{i}" for i in range(count)]
        frames.append(pd.DataFrame({"suite": suite, "language": name, "id": ids, **columns}))
    return pd.concat(frames, ignore_index=True)


def pick(frame, **fields):
    for field, value in fields.items():
        frame = frame[frame[field] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def f1_of(frame, language, prompt):
    part = frame[(frame["language"] == language) & (frame["prompt"] == prompt)]
    return f1_score(part["label"], np.stack(part["sum"]).argmax(1), average="weighted")


def test_summary_equals_scikit_learn_for_cell_language_and_group():
    frame = classified()
    found = summary.summarise({"r": frame}, GROUPS, resamples=100)
    chosen = {"metric": "f1_weighted", "scorer": "sum"}
    cell = pick(found, scope="language:jav", prompt="a", **chosen)
    assert cell["value"] == pytest.approx(f1_of(frame, "jav", "a"))
    language = pick(found, scope="language:jav", prompt="all", **chosen)
    assert language["value"] == pytest.approx(np.mean([f1_of(frame, "jav", p) for p in "ab"]))
    whole = pick(found, scope="all", prompt="all", **chosen)
    every = [f1_of(frame, name, p) for name in ("ind", "jav", "bug") for p in "ab"]
    assert whole["value"] == pytest.approx(np.mean(every))
    assert whole["low"] < whole["value"] < whole["high"]
    assert (whole["n"], whole["seeds"], whole["kind"]) == (200, 1, "classification")
    assert set(found["scorer"]) == {"sum", "mean"}


def test_seeds_are_pooled_from_frames_or_from_a_column():
    seeds = [classified(seed=s) for s in range(3)]
    listed = summary.summarise({"r": seeds}, GROUPS, resamples=50)
    stacked = pd.concat([frame.assign(seed=i) for i, frame in enumerate(seeds)])
    pd.testing.assert_frame_equal(listed, summary.summarise({"r": stacked}, GROUPS, resamples=50))
    row = pick(listed, scope="language:jav", prompt="a", metric="f1_weighted", scorer="sum")
    values = [f1_of(frame, "jav", "a") for frame in seeds]
    assert row["value"] == pytest.approx(np.mean(values))
    assert row["seed_sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["seeds"], row["n"]) == (3, 200)


def test_translation_is_grouped_by_its_less_known_side():
    frame = translated()
    found = summary.summarise({"r": frame}, GROUPS, resamples=50)
    assert set(found["scope"]) >= {"group:L1", "group:L2", "group:L3", "language:bug-ind", "all"}
    row = pick(found, scope="group:L2", metric="bits_per_byte")
    jav = frame[frame["language"] == "eng-jav"]
    assert row["value"] == pytest.approx(jav["nats"].sum() / np.log(2) / jav["bytes"].sum())
    assert (row["kind"], row["scorer"], row["prompt"]) == ("translation", "likelihood", "all")
    assert pick(found, scope="group:L2", metric="source_use")["value"] == pytest.approx(0.1)


def test_instruction_sources_are_grouped_by_their_key():
    frame = translated(suite="chat", names=("dolly", "oasst"))
    frame["group_key"] = frame["language"].map({"dolly": "trained", "oasst": None})
    found = summary.summarise({"r": frame}, GROUPS, resamples=50)
    assert set(found["metric"]) == {"nats_per_token"}
    assert set(found["scope"]) == {"language:dolly", "language:oasst", "group:trained", "all"}


def test_the_kind_of_a_suite_can_be_given():
    found = summary.summarise({"r": translated()}, GROUPS, kinds={"flores": "instructions"}, resamples=20)
    assert set(found["kind"]) == {"instructions"}


def test_comparison_is_paired_and_restricted_to_common_ids():
    plan = cells.ResamplingPlan(GROUPS, resamples=200)
    a, b = classified(seed=1), classified(seed=2)
    fewer = b[b["id"] < "s5"]
    found = summary.compare("a", cells.measure(a, plan), "b", cells.measure(fewer, plan))
    row = pick(found, scope="language:jav", prompt="a", metric="f1_weighted", scorer="sum")
    expected = f1_of(a[a["id"] < "s5"], "jav", "a") - f1_of(fewer, "jav", "a")
    assert row["value"] == pytest.approx(expected)
    assert row["n"] == fewer["id"].nunique()
    assert 0 < row["p"] <= 1


def test_order_of_rows_changes_nothing():
    plan = cells.ResamplingPlan(GROUPS, resamples=100)
    parts = [classified(), translated()]
    shuffled = [part.sample(frac=1, random_state=0) for part in parts]
    found = summary.compare("a", cells.measure(parts, plan), "b", cells.measure(shuffled, plan))
    defined = found.dropna(subset=["low"])
    assert (defined[["value", "low", "high"]] == 0).all(axis=None)
    assert (defined["p"] == 1).all()


def test_runs_with_other_prompts_meet_in_their_mean():
    plan = cells.ResamplingPlan(GROUPS, resamples=50)
    first, second = (cells.measure(classified(prompts=p), plan) for p in (("a", "b"), ("none",)))
    assert set(summary.compare("a", first, "b", second)["prompt"]) == {"all"}


def test_all_comparisons_a_verdict_needs():
    plan = cells.ResamplingPlan(GROUPS, resamples=20)
    names = ("length", "base", "control", "arm")
    runs = {name: cells.measure(classified(seed=i), plan) for i, name in enumerate(names)}
    found = summary.compare_all(runs)
    assert set(zip(found["run"], found["against"])) == {
        ("base", "length"),
        ("control", "base"),
        ("control", "length"),
        ("arm", "base"),
        ("arm", "control"),
        ("arm", "length"),
    }
    assert summary.compare_all({"base": runs["base"]}).empty


def test_one_sentence():
    found = summary.summarise({"r": classified(count=1)}, GROUPS, resamples=20)
    row = pick(found, scope="all", prompt="all", metric="f1_weighted", scorer="sum")
    assert row["n"] == 1
    assert np.isnan(row["low"])


def broken(**columns):
    return classified(count=10).assign(**columns)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (broken(sum=[[np.nan, 0.0, 0.0]] * 60), "nusax/a/bug, scorer 'sum': 10 of 10 rows hold NaN"),
        (broken(label=3), "label: 3"),
        (broken(id="same"), "duplicate id 'same'"),
        (broken(language="xyz", id=[str(i) for i in range(60)]), "'xyz' is in no group"),
        (broken().drop(columns=["sum", "mean"]), "no column of scores"),
        (broken().drop(columns="chars"), "'chars' is missing"),
        (broken().iloc[:0], "no rows"),
        (translated().assign(nats=np.nan), "nats of id 's0' is NaN"),
    ],
)
def test_refusals(frame, said):
    with pytest.raises(DataError, match=said):
        summary.summarise({"r": frame}, GROUPS, resamples=10)


def test_comparisons_refused():
    plan = cells.ResamplingPlan(GROUPS, resamples=10)
    first = cells.measure(classified(count=10), plan)
    renamed = classified(count=10).assign(suite="other")
    with pytest.raises(DataError, match="share no sentence"):
        summary.compare("a", first, "b", cells.measure(renamed, plan))
    with pytest.raises(DataError, match="different plans"):
        summary.compare("a", first, "b", cells.measure(renamed, cells.ResamplingPlan(GROUPS, seed=1, resamples=10)))


def test_table():
    chat = translated(suite="chat", names=("dolly",))
    runs = {
        "ratio .5": [classified(), chat],
        "base": [classified(seed=3), chat],
        "length": classified(seed=4),
    }
    found = summary.summarise(runs, GROUPS, resamples=50)
    markdown, rich_table = tables.table(found)
    lines = markdown.splitlines()
    assert lines[0] == (
        "| run | new L2 f1_weighted (nusax), n=200 | new L3 f1_weighted (nusax), n=200 "
        "| kept L1 f1_weighted (nusax), n=200 | old instruction loss (chat), n=60 |"
    )
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["length", "base", "ratio .5"]
    row = pick(found, run="base", scope="group:L2", prompt="all", metric="f1_weighted", scorer="sum")
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in lines[3]
    assert lines[2].endswith("| – |")
    out = io.StringIO()
    Console(file=out, width=250).print(rich_table)
    assert f"[{row['low']:.3f}, {row['high']:.3f}]" in out.getvalue()
    with pytest.raises(DataError, match="no such metric"):
        tables.table(found[found["kind"] == "classification"], tables.default_columns(found, "nothing")[:0])


def test_a_bar_in_a_name_starts_no_column():
    text = markdown_table(["run", "F1"], [["a|b", "0.5"]])
    assert text.splitlines() == ["| run | F1 |", "| --- | ---: |", r"| a\|b | 0.5 |"]
