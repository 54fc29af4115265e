"""A suite that is added after training: finished runs are kept when nothing but `evaluate` changed."""

import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment, dump_yaml
from ialign_ray.errors import CheckpointError
from ialign_ray.storage import read_json, whole_folder, write_json
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.runs import run_folder
from ialign_ray.workflows.compare import trained


@pytest.fixture
def finished(experiment_data):
    """An experiment with a run that was finished without weights: its data, settings and fingerprint."""
    experiment = build_experiment(experiment_data, "x")
    run, made = run_folder(experiment, "align-s0"), prepare(experiment)
    save_data(run / "data", made.plan, made.encoder)
    with whole_folder(run / "model") as scratch:
        write_json(scratch / "record.json", {"fingerprint": made.fingerprint(experiment)})
        (scratch / "experiment.yaml").write_text(dump_yaml(experiment))
    return experiment_data, run, made.plan


def added(data, texts, tmp_path):
    pd.DataFrame({"eng": texts}).to_csv(tmp_path / "added.csv", index=False)
    suites = [*data["evaluate"]["suites"],
              {"kind": "perplexity", "name": "added", "path": "added.csv", "columns": {"eng": "eng"}}]  # fmt: skip
    return build_experiment(data | {"evaluate": data["evaluate"] | {"suites": suites}}, "x")


@pytest.mark.parametrize("leaked", [0, 2])
def test_a_finished_run_is_kept_when_a_suite_is_added_and_its_rows_are_named(finished, tmp_path, leaked):
    data, run, plan = finished
    eng = sorted({p["source"] for p in plan.pairs.to_pylist() if p["source_language"] == "eng"})
    other = [f"Quite another phrase of nobody, numbered {k}." for k in range(5)]
    console = Console(record=True, width=500, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    assert trained(added(data, [*eng[:leaked], *other], tmp_path), "align-s0", console) == run
    said = console.export_text()
    row = next(p["row_id"] for p in plan.pairs.to_pylist() if p["source"] == eng[0])
    assert ("evaluate.suites changed" in said) == bool(leaked)
    assert (row.rpartition(":")[0] in said) <= bool(leaked)


def test_other_data_is_refused_with_the_rows(finished, tmp_path):
    data, run, _ = finished
    data["replay"]["pool_size"] = 5
    before = read_json(run / "model" / "record.json")
    with pytest.raises(CheckpointError, match=r"25 rows of its data would be excluded now.*old\.jsonl:q"):
        trained(added(data, ["Quite another phrase of nobody."], tmp_path), "align-s0", Console(quiet=True))
    assert read_json(run / "model" / "record.json") == before
