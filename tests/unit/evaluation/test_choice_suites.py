"""Multiple choice in the layouts of well-known benchmarks: rows, faults, scores, baselines and reports."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml

from ialign_ray.config import ChoiceSuite, build_experiment
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.metrics.choice_baselines import choice_predictions
from ialign_ray.evaluation.report.tables import bias_table, suite_columns, table
from ialign_ray.evaluation.results.analysis import analyse
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.fitted_baselines import fit_baselines
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.choice_suites import choice_scorers
from ialign_ray.evaluation.scoring.suite_kinds import kind_of, suite_units
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.evaluation.suites.choices import choice_rows, option_column
from ialign_ray.streaming.curate import evaluation_index

XCOPA = """
kind: choice
name: copa
path: rows.jsonl
columns: {ind: {premise: premise, question: question}}
choices: [choice1, choice2]
answer: label
prompts:
  - {name: plain, text: "{premise}\\n{question}?"}
"""
BELEBELE = """
kind: choice
name: reading
path: rows.jsonl
long: {language: dialect, text: {passage: flores_passage, question: question}, join: [link, question_number],
  values: {eng: eng_Latn, khm: khm_Khmr, ary: ary_Arab}}
choices: [mc_answer1, mc_answer2, mc_answer3, mc_answer4]
answer: correct_answer_num
cluster: link
prompts: [{name: plain, text: "{passage}\\n{question}\\n{choices}\\nAnswer:"}]
"""
INCLUDE = """
kind: choice
name: exams
path: rows.jsonl
long: {language: language, text: question, values: {ind: Indonesian, ell: Greek}}
choices: [option_a, option_b, option_c, option_d]
answer: answer
by: [text, letter]
prompts: [{name: plain, text: "{text}"}, {name: listed, text: "{text}\\n{choices}"}]
"""
GLOBAL_MMLU = """
kind: choice
name: knowledge
path: rows.jsonl
id: sample_id
columns: {eng: question_en, jav: question_jv}
choices: {eng: [a_en, b_en, c_en], jav: [a_jv, b_jv, c_jv]}
prompts: [{name: plain, text: "{text}\\n{choices}"}]
permutations: 3
"""
INDOMMLU = """
kind: choice
name: school
path: rows.csv
columns: {ind: soal}
choices: jawaban
answer: kunci
where: {jenjang: [SD, SMP]}
prompts: [{name: plain, text: "{text}\\n{choices}\\nJawaban:"}]
"""
LISTS = """
kind: choice
name: lists
path: rows.parquet
columns: {tha: question}
choices: options
prompts: [{name: plain, text: "{text}"}]
"""


def xcopa():
    return [
        {"premise": f"Orang itu minum {k} gelas air.", "question": ("sebab", "akibat")[k % 2],
         "choice1": f"Ia haus sekali {k}.", "choice2": f"Ia tidur {k}.", "label": k % 2}
        for k in range(12)
    ]  # fmt: skip


def belebele():
    passages = {"eng_Latn": "The river {k} is wide.", "khm_Khmr": "ទន្លេ {k} ធំទូលាយ។", "ary_Arab": "الواد {k} واسع."}
    return [
        {"link": f"page{k}", "question_number": q, "dialect": code, "flores_passage": text.format(k=k),
         "question": f"{q}? {text[:4]}", "correct_answer_num": str((k + q) % 4 + 1)}
        | {f"mc_answer{n}": f"{text[:3]} {k}{q}{n} " + "x" * n for n in range(1, 5)}
        for k in range(4)
        for q in (1, 2)
        for code, text in passages.items()
    ]  # fmt: skip


def include():
    words = {"Indonesian": "Ibu kota nomor", "Greek": "Η πρωτεύουσα"}
    return [
        {"language": name, "question": f"{word} {k}?", "answer": k % 4}
        | {f"option_{letter}": f"{word[:3]} {k} {letter}" for letter in "abcd"}
        for name, word in words.items()
        for k in range(8)
    ]


def global_mmlu():
    return [
        {"sample_id": f"s{k}", "question_en": f"How many is {k}?", "question_jv": f"Pira {k}?", "answer": "ABC"[k % 3]}
        | {f"{o}_{c}": f"{word} {k} {o}" for c, word in (("en", "apple"), ("jv", "apel")) for o in "abc"}
        for k in range(9)
    ]


def indommlu():
    levels = ["SD", "SMP", "SMA"] * 4
    asked = [(f"Berapa {k} tambah satu?", f"A. {k}\nB. {k + 1}\nC. {k + 2}") for k in range(len(levels))]
    return [
        {"soal": question, "jawaban": options, "kunci": "B", "jenjang": level}
        for level, (question, options) in zip(levels, asked)
    ]


def lists():
    options = [["เหนือ\nสุด", "ใต้", f"กลาง {k}"] for k in range(8)]
    return [{"question": f"แม่น้ำ {k} อยู่ที่ไหน", "options": o, "answer": o[2]} for k, o in enumerate(options)]


LAYOUTS = {
    "copa": (XCOPA, xcopa), "reading": (BELEBELE, belebele), "exams": (INCLUDE, include),
    "knowledge": (GLOBAL_MMLU, global_mmlu), "school": (INDOMMLU, indommlu), "lists": (LISTS, lists),
}  # fmt: skip


def suite_of(name, folder, change=None, **fields):
    """The suite of a layout, its rows written to `folder` after `change` of their list."""
    text, made = LAYOUTS[name]
    rows = made()
    rows = (change(rows) or rows) if change else rows
    data = yaml.safe_load(text) | fields
    path = folder / data["path"].replace("rows", name)
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return ChoiceSuite.model_validate(data | {"path": path.name})


def rows_of(name, folder, change=None, **fields):
    return choice_rows(suite_of(name, folder, change, **fields), str(folder))


@pytest.fixture
def experiment(experiment_data, tmp_path):
    suites = [suite_of(name, tmp_path).model_dump(exclude_none=True) for name in LAYOUTS]
    spoken = ["ind", "jav", "khm", "ary", "ell", "tha"]
    experiment_data["languages"] |= {"l2": spoken}
    experiment_data["evaluate"] |= {"suites": suites, "scorer": "sum"}
    return build_experiment(experiment_data, "test")


@pytest.fixture
def scorer(experiment):
    return open_scorer(experiment, None)


def test_ten_lines_of_yaml_read_each_layout(tmp_path):
    for name, (text, _) in LAYOUTS.items():
        assert len(text.strip().splitlines()) <= 10
        rows = rows_of(name, tmp_path)
        assert not rows.duplicated(["language", "id"]).any()
        assert rows["fold"].nunique() > 1
    copa, reading = rows_of("copa", tmp_path), rows_of("reading", tmp_path)
    assert list(copa["label"]) == [0, 1] * 6
    assert copa[option_column(1)][0] == "Ia tidur 0."
    assert list(copa["text:question"][:2]) == ["sebab", "akibat"]  # a word of the row, not of the suite
    assert set(reading["language"]) == {"eng", "khm", "ary"}
    eng, khm = (reading[reading["language"] == code].reset_index(drop=True) for code in ("eng", "khm"))
    assert list(eng["id"]) == list(khm["id"])  # joined by passage and question
    assert list(eng["label"]) == [(k + q) % 4 for k in range(4) for q in (1, 2)]  # numbers from 1 were found out
    assert eng["cluster"].nunique() == 4
    # questions of one passage are in one fold, and next to each other in length
    assert (eng.groupby("text:passage")["fold"].nunique() == 1).all()
    assert (eng.groupby("text:passage")["length"].nunique() == 1).all()
    assert len(rows_of("exams", tmp_path)) == 16
    known = rows_of("knowledge", tmp_path)
    assert known[known["language"] == "jav"][option_column(2)].iloc[0] == "apel 0 c"
    assert list(known["label"][:3]) == [0, 1, 2]
    school = rows_of("school", tmp_path)
    assert len(school) == 8
    assert (school[option_column(1)][0], set(school["label"])) == ("1", {1})
    lists_ = rows_of("lists", tmp_path)
    assert (lists_[option_column(0)][0], set(lists_["label"])) == ("เหนือ\nสุด", {2})


def test_json_text_is_a_list_and_numbers_are_options(tmp_path):
    def as_json(rows):
        return [row | {"options": json.dumps([k, 10 + k, 20]), "answer": 20} for k, row in enumerate(rows)]

    rows = rows_of("lists", tmp_path, as_json)
    assert list(rows[option_column(1)][:2]) == ["10", "11"]
    assert set(rows["label"]) == {2}


def set_in(row, **values):
    """A change of one row."""
    return lambda rows: rows[row].update(values)


def all_of(**values):
    return lambda rows: [row.update(values) for row in rows] and None


FAULTS = {
    "fewer options": ("lists", set_in(3, options=["ก", "ข"]), ["row 4", "2 options", "3"]),
    "one option": ("lists", set_in(2, options=["ก"], answer="ก"), ["row 3", "1 option", "two"]),
    "no option": ("lists", set_in(2, options=[]), ["row 3", "0 options"]),
    "missing last column": ("exams", set_in(5, option_d=None), ["row 6", "3 options", "4"]),
    "empty option": ("reading", set_in(4, mc_answer2=" "), ["row 5", "option B", "empty"]),
    "empty last option": ("reading", set_in(4, mc_answer4=""), ["row 5", "option D", "empty"]),
    "twice": ("copa", set_in(1, choice2=" Ia haus sekali 1."), ["row 2", "Ia haus sekali 1.", "twice"]),
    "outside": ("copa", set_in(7, label=2), ["row 8", "label", "'2'", "0 to 1"]),
    "outside from 1": ("reading", set_in(7, correct_answer_num="5"), ["row 8", "'5'", "1 to 4"]),
    "negative": ("copa", set_in(7, label=-1), ["row 8", "'-1'"]),
    "letter outside": ("knowledge", set_in(2, answer="D"), ["row 3", "id 's2'", "'D'", "A, B, C"]),
    "text outside": ("lists", set_in(2, answer="ที่อื่น"), ["row 3", "ที่อื่น", "options"]),
    "no answer": ("copa", set_in(2, label=None), ["row 3", "label", "empty"]),
    "empty passage": ("reading", set_in(6, flores_passage="  "), ["row 7", "flores_passage", "empty"]),
    "empty premise": ("copa", set_in(3, premise=None), ["row 4", "premise", "empty"]),
    "untranslated with options": ("knowledge", set_in(3, question_jv=""), ["row 4", "question_jv", "empty"]),
    "not a list": ("lists", all_of(options="ก ข ค"), ["row 1", "options", "JSON"]),
    "both bases": ("exams", all_of(answer=1), ["answer_base"]),
    "number or text": ("lists", all_of(options=["1", "2", "0"], answer="2"), ["answer_is"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_rows_are_one_sentence_with_suite_row_and_cure(tmp_path, fault):
    name, change, said = FAULTS[fault]
    with pytest.raises(DataError) as caught:
        rows_of(name, tmp_path, change)
    text = str(caught.value)
    assert f"'{name}'" in text
    assert all(part in text for part in said), text
    assert "\n" not in text


def test_a_declared_meaning_of_the_answer_is_taken(tmp_path):
    def halves(rows):
        return [row.update(answer=1 + k % 2) for k, row in enumerate(rows)] and None

    assert set(rows_of("exams", tmp_path, halves, answer_base=1)["label"]) == {0, 1}
    assert set(rows_of("exams", tmp_path, halves, answer_base=0)["label"]) == {1, 2}
    numbers = all_of(options=["1", "2", "0"], answer="2")
    assert set(rows_of("lists", tmp_path, numbers, answer_is="text")["label"]) == {1}
    assert set(rows_of("lists", tmp_path, numbers, answer_base=0)["label"]) == {2}


def test_a_row_that_is_not_translated_is_skipped(tmp_path):
    rows = rows_of("knowledge", tmp_path, set_in(3, question_jv="", a_jv=None, b_jv=None, c_jv=None))
    assert rows.groupby("language").size().to_dict() == {"eng": 9, "jav": 8}


def test_other_splits_are_neither_scored_nor_checked(tmp_path):
    def divided(rows):
        rows[0] |= {"choice1": "", "label": 9}
        return [row | {"split": "dev" if k < 3 else "test"} for k, row in enumerate(rows)]

    assert len(rows_of("copa", tmp_path, divided, split_column="split")) == 9
    with pytest.raises(DataError, match="no row with split = 'none'"):
        rows_of("copa", tmp_path, divided, split_column="split", test="none")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "letter"}, "choices"),
        ({"by": []}, "by is"),
        ({"by": ["text", "text"]}, "by is"),
        ({"permutations": 2}, "letter"),
        ({"letters": ["A", "A"]}, "letters"),
        ({"columns": {"ind": {"premise": "premise", "choices": "question"}}}, "choices"),
        ({"choices": ["choice1"]}, "choices"),
        ({"choices": {"eng": ["choice1", "choice2"]}}, "ind"),
        ({"prompts": [{"name": "p", "text": "{premise}"}]}, "question"),
        ({"metric": "f1_weighted"}, "metric"),
        ({"answer_base": 2}, "answer_base"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, experiment_data, fields, said):
    suite = yaml.safe_load(XCOPA) | {"path": "x.jsonl"} | fields
    experiment_data["evaluate"]["suites"] = [suite]
    with pytest.raises(ConfigError) as caught:
        build_experiment(experiment_data, "test")
    assert said in str(caught.value)


def test_too_many_orders_or_options_for_the_letters(tmp_path):
    with pytest.raises(DataError, match="at most 3"):
        rows_of("knowledge", tmp_path, permutations=4)
    with pytest.raises(DataError, match="letters"):
        rows_of("knowledge", tmp_path, letters=["A", "B"], answer_is="letter")


def test_slots_may_hold_digits(tmp_path):
    columns = {"ind": {"premise": "premise", "question": "question", "choice1": "choice1"}}
    suite = suite_of("copa", tmp_path, columns=columns,
                     prompts=[{"name": "p", "text": "{premise} {question} {choice1}?"}])  # fmt: skip
    assert suite.slots == ("premise", "question", "choice1")


def predicted(experiment, scorer, name, size=1000):
    frames = []
    for unit in (u for u in suite_units(experiment) if u.suite == name):
        pieces = [unit.rows.iloc[k : k + size].reset_index(drop=True) for k in range(0, len(unit.rows), size)]
        frames.append(unit.finish(pd.concat([unit.predict(scorer, piece) for piece in pieces], ignore_index=True)))
    return pd.concat(frames, ignore_index=True)


def log_prob(scorer, prompt, answer):
    """Log-probability of an answer by one plain pass."""
    asked, said = scorer.encoder.prompt(prompt), scorer.encoder.label(answer)
    with torch.no_grad():
        logits = scorer.model(input_ids=torch.tensor([asked + said])).logits[0].log_softmax(-1)
    return sum(float(logits[len(asked) + k - 1, token]) for k, token in enumerate(said)), len(said)


def test_texts_of_options_are_scored_by_sum_token_character_byte_and_prior(experiment, scorer):
    frame = predicted(experiment, scorer, "lists", 3)
    unit = next(u for u in suite_units(experiment) if u.suite == "lists")
    for place in (0, 5):
        row = unit.rows.iloc[place]
        options = [row[option_column(k)] for k in range(3)]
        sums, tokens = zip(*(log_prob(scorer, row["text"], option) for option in options))
        got = frame.iloc[place]
        np.testing.assert_allclose(got["sum"], sums, atol=1e-3)
        np.testing.assert_allclose(got["mean"], np.divide(sums, tokens), atol=1e-3)
        np.testing.assert_allclose(got["per_character"], np.divide(sums, [len(o) for o in options]), atol=1e-3)
        np.testing.assert_allclose(got["per_byte"], np.divide(sums, [len(o.encode()) for o in options]), atol=1e-3)
        free = np.array([[log_prob(scorer, text, o)[0] for o in options] for text in ("N/A", "[MASK]", "")])
        free = np.exp(free) / np.exp(free).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got["calibrated"], sums - np.log(free.mean(axis=0)), atol=1e-3)
    pd.testing.assert_frame_equal(frame, predicted(experiment, scorer, "lists"), atol=1e-4)


def test_letters_are_scored_over_orders_and_belong_to_the_options_of_the_file(experiment, scorer):
    frame = predicted(experiment, scorer, "knowledge", 4)
    unit = next(u for u in suite_units(experiment) if u.suite == "knowledge")
    row, got = unit.rows.iloc[4], frame.iloc[4]
    options = [row[option_column(k)] for k in range(3)]
    sums, answers = np.zeros(3), set()
    for turn in range(3):  # three orders of three options are all rotations
        order = [(k + turn) % 3 for k in range(3)]
        prompt = row["text"] + "\n" + "\n".join(f"{'ABC'[k]}. {options[o]}" for k, o in enumerate(order))
        by_place = [log_prob(scorer, prompt, letter)[0] for letter in "ABC"]
        answers.add(order[int(np.argmax(by_place))])
        sums[order] += np.array(by_place) / 3
    np.testing.assert_allclose(got["sum"], sums, atol=1e-3)
    assert got["order_changed"] == (len(answers) > 1)
    assert frame["order_changed"].isin([0, 1]).all()


def test_both_forms_are_measured_apart(experiment, scorer):
    suite = next(s for s in experiment.evaluate.suites if s.name == "exams")
    frame = predicted(experiment, scorer, "exams")
    assert set(frame["prompt"]) == {"plain", "letter:listed"}
    assert set(choice_scorers(suite)) <= set(frame.columns)
    plan = ResamplingPlan(experiment.languages.groups(), {"exams": "choice"}, resamples=10)
    found = measure(frame, plan).measures
    by = {(k.prompt, k.scorer) for k in found if k.metric == "accuracy"}
    assert {("all", "sum"), ("all", "letter:sum"), ("plain", "per_byte"), ("letter:listed", "letter:calibrated")} <= by
    assert ("plain", "letter:sum") not in by
    text = frame[(frame["prompt"] == "plain") & (frame["language"] == "ind")]
    right = np.mean([np.argmax(s) == label for s, label in zip(text["sum"], text["label"])])
    value = next(m.draws[0] for k, m in found.items() if k[2:] == ("all", "sum", "language:ind", "accuracy"))
    assert value == pytest.approx(right)
    chance = [m.draws[0] for k, m in found.items() if k.metric == "chance"]
    assert np.allclose(chance, 0.25)
    assert kind_of("exams", frame, None) == "choice"


def test_baselines_find_the_longest_option_and_a_giveaway_wording():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 60)
    rows = pd.DataFrame({"suite": "s", "language": "ind", "id": [str(k) for k in range(60)], "label": gold,
                         "chars": 9, "options": 3, "fold": np.arange(60) % 5})  # fmt: skip
    for k in range(3):
        wrong = [f"mungkin {rng.integers(100, 999)}" + "x" * int(rng.integers(9)) for _ in gold]
        rows[option_column(k)] = ["tentu" if g == k else w for g, w in zip(gold, wrong)]
    found = choice_predictions(rows, [option_column(k) for k in range(3)], ["sum", "text:sum"])
    right = {n: np.mean([np.argmax(s) == g for s, g in zip(f["text:sum"], gold)]) for n, f in found.items()}
    assert right["ngrams"] == 1.0
    assert right["length"] == 0.0  # the right option is the shortest
    assert all(np.ptp(s) == 0 for s in found["random"]["sum"])
    majority = found["majority"].merge(rows[["id", "fold"]], on="id")
    for fold in range(5):
        counts = np.bincount(gold[np.arange(60) % 5 != fold], minlength=3)
        assert np.argmax(majority[majority["fold"] == fold]["sum"].iloc[0]) == np.argmax(counts)
    with pytest.raises(DataError, match="one fold"):
        choice_predictions(rows.assign(fold=1), [option_column(0)], ["sum"])


def test_verdict_gate_tables_and_report_treat_it_as_any_suite(experiment, scorer):
    suites = [s for s in experiment.evaluate.suites if s.name in ("exams", "knowledge")]
    chosen = experiment.evaluate.model_copy(update={"suites": suites})
    experiment = experiment.model_copy(update={"evaluate": chosen})
    frames = {s.name: predicted(experiment, scorer, s.name) for s in suites}
    better = {}
    for name, f in frames.items():
        right = [np.eye(len(s))[g] if np.ndim(s) else s for s, g in zip(f["sum"], f["label"])]
        better[name] = f.assign(sum=right)
    baselines, notes = fit_baselines(experiment, {})
    assert (set(baselines), notes) == (set(frames), [])
    analysis = analyse(experiment, {"base": [frames], "control": [frames], "mine": [better]}, baselines)
    results = analysis.results
    assert {"random", "majority", "length", "ngrams", "base", "mine"} <= set(results["run"])
    said = {(s.topic, s.outcome) for s in analysis.statements}
    assert ("gain", "one run") in said
    assert any(s.topic == "warning" and s.outcome == "not above length" for s in analysis.statements)
    assert not analysis.mcnemar.empty
    assert {"exams", "knowledge"} <= rules_of(experiment).better_on
    for suite in suites:
        columns = suite_columns(suite, results, "sum")
        assert columns[0].metric == "accuracy"
        assert "majority" in table(results[results["suite"] == suite.name], columns)[0]
    assert "says B" in bias_table(suites[0], results)
    assert any(c.metric == "order_changed" for c in suite_columns(suites[1], results, "sum"))


def test_texts_and_options_are_kept_out_of_training(experiment):
    held = ["The river 1 is wide.", "กลาง 3", "Ia haus sekali 3.", "Ibu 3 b"]
    index = evaluation_index(experiment)
    assert list(index.exact(pa.array([*held, "Nothing of this."]))) == [True] * 4 + [False]
