"""What validation looks at is never trained on."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_corpus import sentences, write_jsonl

from ialign_ray.config import build_experiment
from ialign_ray.corpus.identity import text_key
from ialign_ray.errors import ConfigError
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.validation import load_held_out


@pytest.fixture
def data(experiment_data, tmp_path):
    """One corpus of 60 sentences in three languages, so 240 pairs; 30 old instructions."""
    write_jsonl(tmp_path / "all.jsonl", sentences(60))
    columns = {"eng": "eng", "ind": "ind", "jav": "jav"}
    corpus = {"name": "all", "path": "all.jsonl", "columns": columns, "id": "sid"}
    experiment_data["train"]["validation"] = {"every": 2, "pairs": 40}
    return experiment_data | {"corpora": [corpus], "decontamination": {"exact": False, "threshold": None}}


def made(data):
    return prepare(build_experiment(data, "x"))


def trained_texts(prepared):
    rows = prepared.plan.pairs.to_pylist()
    old = prepared.plan.replay["inputs"].to_pylist()
    return {text_key(r[side]) for r in rows for side in ("source", "target")} | {text_key(t) for t in old}


def held_texts(prepared):
    decode = prepared.encoder.tokenizer.decode
    return [(e, text_key(decode(e.target[:-1]))) for e in prepared.held_out]


def test_whole_sentences_are_kept_from_training(data):
    plain = made(data | {"train": {}})
    prepared = made(data)
    pairs = [e for e in prepared.held_out if e.source.startswith("pairs/")]
    sentences_held = {e.row_id.rpartition(":")[0] for e in pairs}
    assert len(sentences_held) == 6  # a tenth of 240 pairs, 4 a sentence
    assert len(pairs) == 24 == prepared.parallel.counts["all"].validation
    assert {e.source for e in pairs} == {f"pairs/{w}" for w in ("eng-ind", "ind-eng", "eng-jav", "jav-eng")}
    trained = {r.rpartition(":")[0] for r in prepared.plan.pairs["row_id"].to_pylist()}
    assert not sentences_held & trained
    assert len(trained) + 6 == 60
    assert prepared.plan.pairs.num_rows + 24 == plain.plan.pairs.num_rows
    assert plain.held_out == []


def test_no_held_out_text_is_trained_on_by_hash(data):
    prepared = made(data)
    trained = trained_texts(prepared)
    assert len(prepared.held_out) == 24 + 3
    asked = [text_key(t) for t in prepared.plan.replay["targets"].to_pylist()]
    assert all(key not in trained and key not in asked for _, key in held_texts(prepared))


def test_a_sentence_that_another_row_repeats_is_not_held_out(data, tmp_path):
    rows = sentences(60)
    for k in range(0, 60, 2):  # each even row has the English text of the next one
        rows[k]["eng"] = rows[k + 1]["eng"].upper() + "!"
    rows[58]["eng"], rows[59]["eng"] = "The owl sings 58 times today.", "The owl sings 59 times today."
    write_jsonl(tmp_path / "all.jsonl", rows)
    prepared = made(data)
    pairs = [e for e in prepared.held_out if e.source.startswith("pairs/")]
    assert {e.row_id.rpartition(":")[0] for e in pairs} <= {"all:58", "all:59"}
    assert pairs
    assert not {key for _, key in held_texts(prepared)} & trained_texts(prepared)


def test_a_corpus_with_a_held_out_split_is_validated_on_that(data):
    data["corpora"][0]["holdout"] = 0.3
    without = made(data | {"train": {}})
    prepared = made(data)
    assert prepared.plan.pairs.equals(without.plan.pairs)
    assert prepared.parallel.counts["all"].validation == 0
    pairs = [e for e in prepared.held_out if e.source.startswith("pairs/")]
    assert 24 < len(pairs) <= 40
    assert not {e.row_id for e in pairs} & set(prepared.plan.pairs["row_id"].to_pylist())


def test_held_out_requests_are_in_no_pool_and_the_same_for_every_dose(data, tmp_path):
    lines = (tmp_path / "old.jsonl").read_text().splitlines()
    again = [json.loads(line) | {"id": f"again-{k}"} for k, line in enumerate(lines)]
    again = [row | {"inputs": row["inputs"].upper()} for row in again]
    write_jsonl(tmp_path / "old.jsonl", [*map(json.loads, lines), *again])
    seen = []
    for replay in ({"ratio": 0.0}, {"ratio": 0.25}, {"ratio": 1.0, "pool_size": 20}):
        prepared = made(data | {"replay": data["replay"] | replay})
        held = {e.row_id for e in prepared.held_out if e.source == "instructions"}
        requests = {text_key(t) for t in prepared.plan.replay["inputs"].to_pylist()}
        numbers = {r.rpartition("q")[2].rpartition("-")[2] for r in held}
        assert not {text_key(f"Say the number {n} in words.") for n in numbers} & requests
        assert prepared.replay.validation == 2 * len(held) == 12
        seen.append(held)
    assert seen[0] == seen[1] == seen[2]
    assert prepared.plan.replay.num_rows == 20


def test_the_same_is_held_out_and_asked_alike_for_every_seed(data):
    one, two = (made(data | {"train": data["train"] | {"seed": seed}}) for seed in (0, 7))
    assert one.held_out == two.held_out


def test_no_evaluation_sentence_is_held_out(data, tmp_path):
    """The suite's sentences are dropped from the corpus before anything is held out of it."""
    suite = [row | {"label": "good", "split": "test"} for row in sentences(50)]
    pq.write_table(pa.Table.from_pylist(suite), tmp_path / "suite.parquet")
    prepared = made(data | {"decontamination": {"exact": True, "threshold": None}})
    secret = {text_key(row[code]) for row in suite for code in ("eng", "ind", "jav")}
    assert prepared.held_out
    assert not secret & {key for _, key in held_texts(prepared)}


def test_what_is_held_out_is_read_as_it_was_written(data, tmp_path):
    prepared = made(data)
    save_data(tmp_path / "data", prepared.plan, prepared.encoder, prepared.held_out)
    assert load_held_out(tmp_path / "data") == prepared.held_out
    assert load_held_out(tmp_path) == []


def test_counts_tell_what_is_held_out(data):
    counts = made(data).counts()
    assert counts["validation"] == Counter({"instructions": 3} | dict.fromkeys(
        [f"pairs/{w}" for w in ("eng-ind", "eng-jav", "ind-eng", "jav-eng")], 6))  # fmt: skip


@pytest.mark.parametrize(
    ("validation", "stop", "said"),
    [
        ({"pairs": 0, "instructions": 0}, [], "train.validation: nothing can be held out"),
        ({"instructions": 0}, [{"max_rise": 1}], "train.stop.0.metric is 'validation/instructions', but only "),
        ({}, [{"patience": 1, "metric": "validation/pairs/ind-jav"}], "but only validation/instructions, "),
    ],
)
def test_rules_about_what_is_not_held_out_are_refused(data, validation, stop, said):
    with pytest.raises(ConfigError) as error:
        made(data | {"train": {"validation": validation, "stop": stop}})
    assert said in str(error.value)


def test_the_fingerprint_follows_validation_only_where_it_decides(data):
    data["corpora"][0]["holdout"] = 0.3

    def fingerprint(**train):
        experiment = build_experiment(data | {"train": train}, "x")
        return prepare(experiment).fingerprint(experiment)

    held = {"pairs": 8, "instructions": 0}
    free = [{}, {"validation": held}, {"validation": held | {"every": 3}}, {"on_spike": "skip"}]
    assert len({fingerprint(**train) for train in free}) == 1
    late = held | {"asynchronous": True}
    assert fingerprint(validation=late, keep="best") == fingerprint(validation=held, keep="best")
    rules = [{}, {"stop": [{"metric": "validation/pairs", "patience": 1}]}, {"keep": "best"}]
    assert len({fingerprint(validation=held, **rule) for rule in rules}) == 3
