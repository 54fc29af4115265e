import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_corpus import sentences, write_jsonl

from ialign_ray.config import build_experiment
from ialign_ray.corpus.build import Built, build_corpus
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.inspection.flagged import flagged
from ialign_ray.inspection.lengths import Usual
from ialign_ray.inspection.quality import MEASURES, anomaly, longest_runs
from ialign_ray.inspection.report import inspect

LONG = "The farmer of the village buys rice and fish for all the children of the school near the river today."
PLANTED = {
    20: ("length", LONG, "Iya."),
    40: ("signs", "The cat sleeps.", "Kucing -- ## $$ %% && ((( ))) turu."),
    60: ("script", "The dog sleeps here.", "Собака спит здесь сегодня."),
    80: ("run", "The child wants bread.", "Bocah arep arep arep arep arep roti."),
    100: ("digits", "It costs 1250 in 2019.", "Regane sawetara ing taun kuwi 333444."),
    120: ("copied", "Green ideas sleep very furiously.", "Green ideas sleep very furiously, turu."),
}


def measured(eng, jav, usual=None, scripts=None):
    table = pa.table({"eng": pa.array([eng], pa.string()), "jav": pa.array([jav], pa.string())})
    found = anomaly(table, Scope(["eng", "jav"], ["eng"]), usual or {}, scripts or {})
    return {name: float(values[0]) for name, values in found["eng", "jav"].items()}


@pytest.fixture
def report(tmp_path):
    """A corpus of 200 rows without cleaning, with one row of each kind of anomaly."""
    rows = [{k: re.sub(r" (in house|ing omah) \d+", "", str(v)) for k, v in row.items()} for row in sentences(200)]
    for place, (_, eng, jav) in PLANTED.items():
        rows[place] |= {"eng": eng, "jav": jav}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    data = {
        "name": "tiny",
        "languages": {"l1": ["eng"], "l2": ["jav"]},
        "model": {"id": "none"},
        "replay": {"ratio": 0},
        "corpora": [{"name": "all", "path": "rows.jsonl", "columns": {"eng": "eng", "jav": "jav"}, "id": "sid"}],
        "cleaning": {"steps": []},
        "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
    }
    experiment = build_experiment(data, "test")
    return inspect(experiment, build_corpus(experiment, EvaluationIndex.build([])), None)


def test_planted_dirt_is_found_and_named(report):
    [corpus_report] = report.corpora
    names = {m.name: m for m in MEASURES}
    found = {s.id: s for s in corpus_report.flagged[: len(PLANTED)]}
    assert found.keys() == {f"all:{place}" for place in PLANTED}
    for place, (measure, eng, jav) in PLANTED.items():
        flagged_row = found[f"all:{place}"]
        assert flagged_row.texts == (eng, jav)
        assert flagged_row.line == place + 1
        said = re.escape(names[measure].says).replace(r"\{:\.0%\}", r"\d+%").replace(r"\{:\.0f\}", r"\d+")
        said = said.replace(r"\{:\.1f\}", r"[\d.]+")
        assert any(re.fullmatch(said, reason) for reason in flagged_row.reasons), (measure, flagged_row.reasons)
    scores = [s.anomaly for s in corpus_report.flagged]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0


def test_the_best_are_the_same_whatever_the_batches(report, monkeypatch):
    from ialign_ray.inspection import rows

    [corpus_report] = report.corpora
    monkeypatch.setattr(rows, "BATCH_ROWS", 7)
    again = flagged(report.built, "all", corpus_report.lengths.scope, corpus_report.lengths.usual(), {}, k=6)
    assert {s.id for s in again} == {s.id for s in corpus_report.flagged[:6]}


def test_measures_of_plain_translations_count_nothing():
    found = measured("The cat eats fish in 2019.", "Si kucing mangan iwak ing 2019.", {("eng", "jav"): Usual(99, 0, 1)})
    assert found["anomaly"] == 0
    assert found["digits"] == 0
    assert found["run"] == 1


@pytest.mark.parametrize(
    ("name", "eng", "jav", "value"),
    [
        ("signs", "abcd", "ab!!", 0.5),
        ("script", "abcd", "abсд", 0.5),
        ("run", "a b", "No, no NO no", 4),
        ("digits", "1,250 x", "1250 x", 0),
        ("digits", "٢٠١٩", "2019", 0),
        ("digits", "in 2019", "ing 2018 5", 3),
        ("copied", "one two three four", "one two tiga papat", 0.5),
    ],
)
def test_values(name, eng, jav, value):
    assert measured(eng, jav)[name] == pytest.approx(value)


def test_what_cannot_be_measured_counts_nothing():
    assert np.isnan(measured("a b", "a b")["length"])
    assert np.isnan(measured("a b", "a b")["copied"])
    assert np.isnan(measured("abc", None)["anomaly"])
    own = {"jav": ["Java"]}
    assert measured("abc", "abc", scripts=own)["script"] == 1


def test_runs_end_with_their_text():
    words = np.array([1, 1, 1, 1, 2, 2], np.uint64)
    assert longest_runs(words, np.array([0, 2, 2, 5, 6])).tolist() == [2, 0, 2, 1]
    assert longest_runs(np.zeros(0, np.uint64), np.array([0, 0])).tolist() == [0]


def test_many_pairs_are_ranked_too(tmp_path):
    codes = [f"x{k}" for k in range(40)]
    table = pa.table({"id": ["1"], "file": [1], "line": [1], "eng": ["a cat"], **{code: ["un chat"] for code in codes}})
    table = table.set_column(table.column_names.index("x39"), "x39", pa.array(["chat " * 9]))
    folder = tmp_path / "data" / "corpus=all" / "split=heldout"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00000.parquet")
    [flagged_row] = flagged(Built(tmp_path), "all", Scope(["eng", *codes], ["eng"]), {}, {})
    assert (flagged_row.pivot, flagged_row.other) == ("eng", "x39")
    assert flagged_row.reasons == ["a word 9 times in a row"]
