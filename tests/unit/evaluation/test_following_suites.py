"""Requests with demands that a program checks: every check, its faults, the bundled suite, and its verdict."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ialign_ray.config import PromotionConfig, build_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.checks import CHECKS, check_draws, fault_of, met_checks
from ialign_ray.evaluation.results.analysis import analyse
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.scoring.following_suites import following_rows
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, kind_of, suite_units
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.pocket import pocket_file
from ialign_ray.pocket.following import following_rows as written_rows

GERMAN = "Das Wetter war gestern sehr schön, und wir gingen am Nachmittag lange am Fluss spazieren."
MET = [
    ("words", {"at_least": 3}, "one two three"),
    ("words", {"at_most": 2}, "แมว"[:2]),
    ("words", {"count": 2}, "हिन्दी भाषा।"),
    ("sentences", {"at_least": 2}, "One. Two!"),
    ("sentences", {"count": 2}, "これは犬です。それは猫です。"),
    ("sentences", {"count": 2}, "यह एक है। वह दो है।"),
    ("sentences", {"at_most": 1}, "No end"),
    ("lines", {"count": 2}, "one\n\n two \n"),
    ("paragraphs", {"count": 2}, "one\nmore\n \ntwo"),
    ("bullets", {"count": 3}, "Title\n- a\n* b\n • c"),
    ("placeholders", {"at_least": 2}, "Dear [name], on [tanggal]."),
    ("contains", {"text": "Boat"}, "the boat, it sank"),
    ("contains", {"text": "แมว"}, "ฉันรักแมวมาก"),
    ("contains", {"text": "a b", "at_least": 2}, "a b, A B"),
    ("contains", {"text": "!"}, "so!"),
    ("avoids", {"text": "egg"}, "eggs are fine"),
    ("begins_with", {"text": "La réponse"}, "« LA RÉPONSE courte est"),
    ("ends_with", {"text": "Thank you."}, 'So long. Thank you."\n'),
    ("lower", {}, "all lower, ก 1"),
    ("upper", {}, "ALLES IN GROß UND GROẞ"),
    ("json", {}, '{"a": [1, 2]}'),
    ("json", {}, '```json\n["é"]\n```'),
    ("quoted", {}, "„So ist es.“"),
    ("quoted", {}, '"yes"'),
    ("title", {}, "<<My title>>\ntext"),
    ("language", {"code": "deu"}, GERMAN),
    ("language", {"code": "tha"}, "วันนี้อากาศดีมากและเราไปเดินเล่นที่ริมแม่น้ำ"),
]
UNMET = [
    ("words", {"at_least": 4}, "one two three"),
    ("words", {"at_most": 2}, "one two three"),
    ("sentences", {"at_least": 2}, "One... (!)"),
    ("sentences", {"at_most": 1}, "One. Two."),
    ("lines", {"count": 2}, "one"),
    ("paragraphs", {"count": 2}, "one\ntwo"),
    ("bullets", {"count": 3}, "- a\n- b\n- c\n- d"),
    ("bullets", {"at_least": 1}, "-a - b"),
    ("placeholders", {"at_least": 2}, "[a] [] a]"),
    ("contains", {"text": "boat"}, "boats"),
    ("contains", {"text": "a", "at_least": 2}, "a aa"),
    ("avoids", {"text": "egg"}, "An Egg."),
    ("begins_with", {"text": "So"}, "And so"),
    ("ends_with", {"text": "Thank you."}, "Thank you. Bye"),
    ("lower", {}, "Not"),
    ("upper", {}, "NOt"),
    ("json", {}, 'Here: {"a": 1}'),
    ("json", {}, "1"),
    ("json", {}, "[" * 100_000),
    ("quoted", {}, "so «it» is"),
    ("quoted", {}, '""'),
    ("title", {}, "<< >> <a>"),
    ("language", {"code": "eng"}, GERMAN),
]


@pytest.mark.parametrize(("name", "arguments", "answer"), MET)
def test_answers_that_meet_a_check(name, arguments, answer):
    assert fault_of({"name": name, **arguments}) is None
    assert met_checks(answer, [{"name": name, **arguments}]) == [True]


@pytest.mark.parametrize(("name", "arguments", "answer"), UNMET)
def test_answers_that_do_not(name, arguments, answer):
    assert fault_of({"name": name, **arguments}) is None
    assert met_checks(answer, [{"name": name, **arguments}]) == [False]


def test_every_check_has_both_and_an_empty_answer_meets_none():
    assert {name for name, *_ in MET} == {name for name, *_ in UNMET} == set(CHECKS)
    every = [{"name": name, **arguments} for name, arguments, _ in MET]
    for silent in ("", " \n\t", "...", "\u200b"):
        assert not any(met_checks(silent, every))


@pytest.mark.parametrize(
    ("check", "part"),
    [
        ({"name": "word", "at_least": 1}, "'word', which is not known"),
        ({"at_least": 1}, "no `name`"),
        ("words", "no `name`"),
        ({"name": 3}, "no `name`"),
        ({"name": "words", "atleast": 1}, "unknown argument 'atleast'"),
        ({"name": "lower", "text": "a"}, "takes no argument"),
        ({"name": "words"}, "without an argument"),
        ({"name": "contains", "at_least": 2}, "without an argument; give text"),
        ({"name": "words", "at_least": "ten"}, "whole number"),
        ({"name": "words", "at_least": -1}, "whole number"),
        ({"name": "words", "at_least": True}, "whole number"),
        ({"name": "ends_with", "text": " "}, "not empty"),
        ({"name": "ends_with", "text": 3}, "not empty"),
        ({"name": "language", "code": "ace"}, "lid.176 does not know"),
        ({"name": "language", "code": "nonsense"}, "lid.176 does not know"),
    ],
)
def test_checks_that_are_wrong(check, part):
    assert part in fault_of(check)


ROWS = [{"id": f"r{k}", "lang": lang, "text": f"Request {k}", "checks": [{"name": "words", "at_least": k + 1}]}
        for k in range(4) for lang in ("en", "id")]  # fmt: skip


def asked(experiment_data, tmp_path, rows=ROWS, **changes):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    long = {"language": "lang", "text": "text", "values": {"eng": "en", "ind": "id"}, "join": "id"}
    suite = {"kind": "following", "name": "obey", "path": "rows.jsonl", "long": long, "max_new_tokens": 4}
    experiment_data["evaluate"]["suites"] = [suite | changes]
    return build_experiment(experiment_data, "test")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"checks": []}, "row 3, eng: column 'checks' has no list of checks"),
        ({"checks": None}, "has no list of checks"),
        ({"checks": "words"}, "has no list of checks"),
        ({"checks": [{"name": "wrods", "at_least": 3}]}, "'wrods', which is not known"),
        ({"text": " "}, "column 'text' is empty"),
    ],
)
def test_rows_that_are_wrong(experiment_data, tmp_path, change, part):
    rows = [dict(row, checks=json.dumps(row["checks"])) for row in ROWS]
    given = {k: json.dumps(v) if isinstance(v, list) else v for k, v in change.items()}
    rows[2] |= given
    with pytest.raises(DataError) as caught:
        suite_units(asked(experiment_data, tmp_path, rows))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_suite_is_generated_measured_and_judged_as_kept(experiment_data, tmp_path):
    experiment = asked(experiment_data, tmp_path, also=[])
    (unit,) = suite_units(experiment)
    frame = unit.predict(open_scorer(experiment, None), unit.rows)
    assert kind_of("obey", frame, None) == "following"
    assert set(SUITES["following"].columns) <= set(frame.columns)
    plan = ResamplingPlan(experiment.languages.groups(), {"obey": "following"}, resamples=10)
    assert {"followed", "checks_met", "empty", "cut"} <= {key.metric for key in measure(frame, plan).measures}


def test_losing_it_is_forgetting(experiment_data, tmp_path):
    rows = [dict(row, id=f"{row['id']}-{n}") for n in range(10) for row in ROWS]
    experiment_data["evaluate"]["seed_spread"] = 0
    experiment = asked(experiment_data, tmp_path, rows)
    (unit,) = suite_units(experiment)
    frame = unit.rows.assign(
        prompt="default", prompt_text="p", hypothesis="one two three four", new_tokens=4, cut=False
    )
    lost = frame.assign(hypothesis=["one" if k % 2 else "one two three four" for k in range(len(frame))])
    runs = {"base": [{"obey": frame}], "control": [{"obey": frame}], "arm": [{"obey": lost}]}
    analysis = analyse(experiment, runs, {})
    assert {s.outcome for s in analysis.statements if s.topic == "forgetting"} == {"forgot"}
    (kept,) = (r for r in analysis.retention if r.run == "arm")
    assert kept.outcome == "lost"
    assert "followed on L1 of obey" in kept.what


def test_scores_are_strict_by_prompt_and_by_check():
    checks = [{"name": "words", "at_least": 2}, {"name": "lower"}]
    rows = pd.DataFrame(
        {"suite": "s", "language": "eng", "id": ["0", "1", "2", "3"], "cut": [False, False, True, False]}
    )
    rows["hypothesis"], rows["checks"] = ["a b", "A b", "A", ""], json.dumps(checks)
    drawn = check_draws(Cell(rows, np.arange(4), np.ones((4, 1))))
    assert {name: float(d[0]) for name, d in drawn.items()} == {
        "followed": 0.25, "checks_met": 3 / 8, "empty": 0.25, "cut": 0.25,
    }  # fmt: skip


def test_the_bundled_suite_can_be_asked_in_the_languages_of_groups(experiment_data):
    experiment_data["evaluate"]["suites"] = ["following"]
    experiment_data["languages"] = {"l1": ["eng", "ind"], "l2": ["jav"]}
    experiment = build_experiment(experiment_data, "test")
    (suite,) = experiment.evaluate.suites
    rows = following_rows(suite, experiment.storage.data, suite.asked[0])
    assert set(rows["language"]) == {"eng", "ind"}
    assert len(rows) == 72
    assert set(rows[rows["language"] == "eng"]["id"]) == set(rows[rows["language"] == "ind"]["id"])


def test_the_bundled_requests_demand_what_is_checked():
    rows = written_rows()
    assert rows == [json.loads(line) for line in pocket_file("pocket:following").read_text("utf-8").splitlines()]
    assert (len(rows), len({row["prompt"] for row in rows})) == (180, 180)
    assert min(Counter(row["language"] for row in rows).values()) >= PromotionConfig().min_rows
    used = {check["name"] for row in rows for check in row["checks"]}
    assert used == set(CHECKS)
    for row in rows:
        assert not [fault for check in row["checks"] if (fault := fault_of(check))]
        for check in row["checks"]:
            for value in (check[key] for key in ("text", "at_least", "count") if key in check):
                assert str(value) in row["prompt"]
        assert "{" not in row["prompt"]
