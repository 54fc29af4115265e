from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment, override
from ialign_ray.corpus.pairs import load_parallel
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.report.ablation import AblationRow, write_ablation
from ialign_ray.evaluation.report.write import report_again
from ialign_ray.evaluation.suites.load import classification_rows
from ialign_ray.streaming.curate import curate
from ialign_ray.workflows.ablate import plan_ablation, print_estimate

pytestmark = pytest.mark.slow


def planned(data, axes, **ablate):
    return plan_ablation(build_experiment(data | {"ablate": {"axes": axes, **ablate}}, "test"))


def names(settings):
    return {s.name: s.control for s in settings}


def test_one_at_a_time_varies_around_the_file_and_shares_the_control(experiment_data):
    axes = {"replay.ratio": [0, 0.25, 1.0], "tasks.mix": ["tlm", {"mt": 1}], "corpora.*.share": [0.5]}
    settings = planned(experiment_data, axes)
    assert names(settings) == {
        "control": None,
        "reference": "control",  # ratio 0.25 is the file's own
        "replay.ratio=0": "control",
        "tasks.mix=tlm": "control",
        'tasks.mix={"mt": 1}': "control",
        "corpora.*.share=0.5": "control",
    }
    half = settings[-1].experiment
    assert [c.share for c in half.corpora] == [0.5, 0.5, 0.5]
    assert half.replay.ratio == 0.25
    assert len({s.run(0) for s in settings} | {s.run(1) for s in settings}) == 12
    assert settings[1].seeded(3).train.seed == 3


def test_what_changes_the_control_too_has_its_own(experiment_data):
    settings = planned(experiment_data, {"model.lora.rank": [2, 4], "replay.pool_size": [10], "train.steps": [12]})
    assert names(settings) == {
        "control": None,
        "control (model.lora.rank=2)": None,
        "control (replay.pool_size=10)": None,
        "control (train.steps=12)": None,
        "reference": "control",  # rank 4 is the file's own
        "model.lora.rank=2": "control (model.lora.rank=2)",
        "replay.pool_size=10": "control (replay.pool_size=10)",
        "train.steps=12": "control (train.steps=12)",
    }
    by_name = {s.name: s.experiment for s in settings}
    assert by_name["control (train.steps=12)"].train.steps == 12
    assert by_name["control (train.steps=12)"].replay.ratio == 1


def test_the_full_grid_is_every_combination(experiment_data):
    settings = planned(experiment_data, {"replay.ratio": [0, 0.5], "model.lora.rank": [2, 4]}, one_at_a_time=False)
    assert names(settings) == {
        "control (model.lora.rank=2)": None,
        "control": None,
        "replay.ratio=0, model.lora.rank=2": "control (model.lora.rank=2)",
        "replay.ratio=0, model.lora.rank=4": "control",
        "replay.ratio=0.5, model.lora.rank=2": "control (model.lora.rank=2)",
        "replay.ratio=0.5, model.lora.rank=4": "control",
    }


@pytest.mark.parametrize(
    ("axes", "part"),
    [
        ({}, "ablate.axes is empty"),
        ({"replay.ratio": [0, 2]}, "replay.ratio is 2"),
        ({"tasks.mix": ["nonsense"]}, "'nonsense' is not known"),
        ({"train.seed": [1]}, "'train.seed' cannot be an axis"),
        ({"evaluate.scorer": ["sum"]}, "'evaluate.scorer' cannot be an axis"),
        ({"model.lora.rank": []}, "'model.lora.rank' has no values"),
        ({"train.*.steps": [1]}, r"train is not a list; leave `\*` out"),
    ],
)
def test_a_bad_axis_is_told_before_anything_is_trained(experiment_data, axes, part):
    with pytest.raises(ConfigError, match=part):
        planned(experiment_data, axes)


def test_a_smaller_share_of_a_corpus_is_part_of_a_larger_and_needs_no_new_build(experiment_data, tmp_path):
    experiment = build_experiment(experiment_data, "test")
    ids = []
    for share in (0.3, 0.6, 1.0):
        fewer = override(experiment, {"corpora.*.share": share})
        built, _ = curate(fewer)
        rows = load_parallel(fewer, built).pairs["row_id"].to_pylist()
        ids.append(set(rows))
    assert ids[0] < ids[1] < ids[2]
    assert len(ids[1]) == pytest.approx(0.6 * len(ids[2]), abs=0.2 * len(ids[2]))
    corpora = {p.name for p in (tmp_path / "runs" / "corpora").iterdir() if not p.name.startswith(("cache", "."))}
    assert len(corpora) == 1


def test_a_dry_run_counts_steps_tokens_and_time(experiment_data, capsys, tmp_path):
    data = experiment_data | {"ablate": {"axes": {"replay.ratio": [0]}, "seeds": [0, 1]}}
    print_estimate(build_experiment(data, "test"), Console(width=150))
    out = capsys.readouterr().out
    for name in ("control", "reference", "replay.ratio=0"):
        assert name in out
    assert "3 settings x 2 seeds" in out
    assert "4 steps on one thread" in out
    assert not (tmp_path / "runs" / "tiny").exists()


def frames(experiment, shift, seed=0):
    """Predictions of its suite whose right label gets `shift` more."""
    rng = np.random.default_rng(seed)
    rows = classification_rows(experiment.evaluate.suites[0], experiment.storage.data).test
    scores = rng.normal(size=(len(rows), 2))
    scores[np.arange(len(rows)), rows["label"]] += shift * (rows["language"] != "eng")
    columns = {name: list(scores) for name in ("sum", "mean", "calibrated")}
    return {"mood": rows[["suite", "language", "id", "label", "chars"]].assign(prompt="plain", **columns)}


def test_the_table_has_intervals_baselines_shares_and_each_gain_on_its_own_control(experiment_data, tmp_path):
    experiment = build_experiment(experiment_data | {"ablate": {"axes": {"replay.ratio": [0]}}}, "test")
    made = partial(frames, experiment)
    shared = [
        AblationRow("base", None, [made(0.0)]),
        AblationRow("control", None, [made(0.0, 1), made(0.0, 2)]),
        AblationRow("reference", "control", [made(5.0, 1), made(5.0, 2)]),
    ]
    rows = [
        *shared,
        AblationRow("control (x=1)", None, [made(3.0, 3), made(3.0, 4)]),
        AblationRow("x=1", "control (x=1)", [made(3.0, 3), made(3.0, 4)]),
    ]
    page = tmp_path / "out" / "ablation" / "report.html"
    path = write_ablation(experiment, rows, tmp_path / "out", Console(quiet=True))
    text = path.read_text()
    for name in ("random", "majority", "length", "base", "control", "reference", "x=1"):
        assert f"\n| {name} |" in text
    assert "F1 L1" in text
    assert "AUC, length fixed L2" in text
    assert "bad L2" in text
    results = pd.read_csv(tmp_path / "out" / "ablation.csv")
    assert {"value", "low", "high", "n", "seeds"} <= set(results.columns)
    differences = pd.read_csv(tmp_path / "out" / "ablation_differences.csv")
    assert set(zip(differences["run"], differences["against"])) == {("reference", "control"), ("x=1", "control (x=1)")}
    (gained,) = [line for line in text.splitlines() if line.startswith("| reference | control |")]
    (same,) = [line for line in text.splitlines() if line.startswith("| x=1 | control (x=1) |")]
    assert "**+" in gained
    assert "**" not in same
    assert "+0.000 [+0.000, +0.000]" in same
    assert not page.exists()  # one page has one control
    write_ablation(experiment, shared, tmp_path / "out", Console(quiet=True))
    assert "reference" in page.read_text("utf-8")
    again = page.read_text("utf-8")
    assert report_again([page.parent], None, Console(quiet=True)).read_text("utf-8") == again
