"""Rows of a suite that was named after training: found in the run's own data, said, and left out."""

import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.corpus.pairs import PAIR_SCHEMA
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.trained_on import trained_on
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import BASE, open_scorer
from ialign_ray.storage import read_json, write_json
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import REPLAY_SCHEMA
from ialign_ray.workflows.evaluate import judge


def texts(language, count=40):
    return [f"{language} utterance number {k} about the harbour of town {k * 3} in spring" for k in range(count)]


def plan(folder, pairs=(), replay=(), ratio=0.5):
    made = [{"row_id": f"c:{k}:eng-jav", "source_language": "eng", "target_language": "jav", "source": a, "target": b}
            for k, (a, b) in enumerate(pairs)]  # fmt: skip
    old = [{"row_id": f"r:{k}", "source": "r", "inputs": a, "targets": b} for k, (a, b) in enumerate(replay)]
    tables = (pa.Table.from_pylist(made, PAIR_SCHEMA), pa.Table.from_pylist(old, REPLAY_SCHEMA))
    Plan(0, ratio, {"mt": 1.0}, [], {}, frozenset({"eng"}), *tables).save(folder / "data" / "plan")
    return folder


@pytest.fixture
def later(experiment_data, tmp_path):
    """An experiment with a suite that its runs were not cleared of: eng is declared, sun and a nested ban are not."""
    frame = pd.DataFrame({"key": [f"k{i}" for i in range(40)], "eng": texts("eng"), "sun": texts("sun")})
    frame.to_parquet(tmp_path / "later.parquet")
    suite = {"kind": "perplexity", "name": "later", "path": "later.parquet", "id": "key", "columns": {"eng": "eng"}}
    experiment_data["evaluate"]["suites"] = [suite]
    return experiment_data


def found(data, **runs):
    return trained_on(build_experiment(data, "x"), runs)


def test_rows_in_pairs_and_replay_are_found_whatever_their_language_and_case(later, tmp_path):
    eng, sun = texts("eng"), texts("sun")
    one = plan(tmp_path / "one", [(eng[0].upper(), "unrelated words of nobody here"), ("nothing to see", sun[1])])
    two = plan(tmp_path / "two", replay=[(f'Translate this: "{eng[2]}"', "no"), ("Say:", f"well, {sun[3]} and so on")])
    known = found(later, one=one, two=two)
    assert known.suites == {"later": frozenset({"k0", "k1", "k2", "k3"})}
    assert "later: 4 of 40 rows were trained on by one, two" in known.warnings[0]
    assert found(later, two=two).suites == {"later": frozenset({"k2", "k3"})}
    frame = pd.DataFrame({"id": ["k1", "k9"], "nats": [1.0, 2.0]})
    assert known.clear({"later": frame, "other": frame})["later"]["id"].tolist() == ["k9"]
    assert len(known.clear({"other": frame})["other"]) == 2


def test_a_clean_run_a_control_and_a_run_without_data(later, tmp_path):
    eng = texts("eng")
    clean = plan(tmp_path / "clean", [("one thing", "another thing")])
    control = plan(tmp_path / "control", [(eng[0], eng[1])], [(eng[5], "yes")], ratio=1.0)
    assert found(later, clean=clean) == found(later)
    assert found(later, control=control).suites == {"later": frozenset({"k5"})}  # its pairs are never drawn
    (tmp_path / "bare").mkdir()
    bare = found(later, bare=tmp_path / "bare")
    assert not bare.suites
    assert len(bare.warnings) == 1


def test_a_trial_has_the_data_of_its_search(later, tmp_path):
    plan(tmp_path / "search", [(texts("eng")[7], "x")])
    for run in (tmp_path / "search" / "trials" / "trial-1", tmp_path / "search" / "control-s0"):
        write_json(run / "reports.json", {})
        assert found(later, run=run).suites == {"later": frozenset({"k7"})}


def test_long_files_and_instructions(later, tmp_path):
    long = pd.DataFrame([{"lang": lang, "text": t, "sense": i} for lang in ("en", "su")
                         for i, t in enumerate(texts(lang))])  # fmt: skip
    long.to_json(tmp_path / "long.jsonl", orient="records", lines=True)
    suites = later["evaluate"]["suites"]
    suites[:] = [{"kind": "perplexity", "name": "long", "path": "long.jsonl", "languages": ["eng"],
                  "long": {"language": "lang", "text": "text", "values": {"eng": "en", "sun": "su"},
                           "join": "sense"}},
                 {"kind": "instructions", "name": "old", "path": "old.jsonl"}]  # fmt: skip
    run = plan(tmp_path / "run", [(texts("en")[4], "x")], [("Say the number 3 in words.", "three")])
    known = found(later, run=run)
    assert len(known.suites["long"]) == 1
    assert known.suites["old"] == {"old.jsonl:q3"}  # and not those that share its wording


def test_a_suite_that_was_trained_on_as_a_whole_is_refused(later, tmp_path):
    run = plan(tmp_path / "run", list(zip(texts("eng"), texts("jav"), strict=True)))
    with pytest.raises(DataError, match=r"later: 40 of 40 rows were trained on by run.*evaluate\.suites"):
        found(later, run=run)


def test_the_report_says_so_and_measures_the_others(later, tmp_path):
    run = plan(tmp_path / "run", [(text, "x") for text in texts("eng")[:24]])
    experiment = build_experiment(later, "x")
    subjects = {
        name: [Subject(name, name, tmp_path / name / "predictions", lambda: open_scorer(experiment, None))]
        for name in (BASE, "run")
    }
    assert subjects["run"][0].folder.parent == run
    statements = judge(experiment, subjects, tmp_path / "out", Console(quiet=True))
    assert [s.outcome for s in statements].count("trained on") == 1
    assert "later: 24 of 40 rows" in (tmp_path / "out" / "RESULTS.md").read_text()
    assert "later: 24 of 40 rows" in (tmp_path / "out" / "report.html").read_text()
    results = pd.read_csv(tmp_path / "out" / "results.csv")
    assert set(results.loc[results["suite"] == "later", "n"]) == {16}
    assert read_json(tmp_path / "out" / "report" / "runs.json")["warnings"]
