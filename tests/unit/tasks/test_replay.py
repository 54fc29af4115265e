import json

import pytest

from ialign_ray.config import DataSource, build_experiment
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.errors import DataError
from ialign_ray.tasks.instructions import instructions
from ialign_ray.tasks.replay import load_replay


def write(tmp_path, rows, name="old.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def load(data, secrets=(), fits=lambda a, b: True, **replay):
    data["replay"] |= replay
    return load_replay(build_experiment(data, "x"), EvaluationIndex.build(secrets), fits)


def test_the_three_forms_give_the_same_instruction(tmp_path):
    write(tmp_path, [{"inputs": "Ask", "targets": "Answer"}], "a.jsonl")
    write(tmp_path, [{"prompt": "Ask", "completion": "Answer"}], "b.jsonl")
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Answer"}]
    write(tmp_path, [{"messages": [*turns, {"role": "user", "content": "Thanks"}]}], "c.jsonl")
    for name in "abc":
        [row] = instructions(DataSource(path=f"{name}.jsonl"), str(tmp_path))
        assert row == (f"{name}.jsonl:0", f"{name}.jsonl", "Ask", "Answer", ())


def test_a_conversation_keeps_what_was_said_before(tmp_path):
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Ask"), ("assistant", "Answer")]
    write(tmp_path, [{"messages": [{"role": r, "content": c} for r, c in turns]}])
    [row] = instructions(DataSource(path="old.jsonl"), str(tmp_path))
    assert (row.inputs, row.targets) == ("Hi\nHello\nAsk", "Answer")
    assert [(turn["role"], turn["content"]) for turn in row.turns] == turns


def test_ids_and_sources_are_kept(tmp_path):
    write(tmp_path, [{"inputs": "a", "targets": "b", "id": "seven", "source": "quiz"}])
    assert instructions(DataSource(path="old.jsonl"), str(tmp_path)) == [("old.jsonl:seven", "quiz", "a", "b", ())]


def test_another_form_is_refused(tmp_path):
    write(tmp_path, [{"left": "a", "right": "b"}])
    with pytest.raises(DataError, match=r"old\.jsonl has columns left, right; .*prompt/completion"):
        instructions(DataSource(path="old.jsonl"), str(tmp_path))


def test_a_smaller_pool_is_part_of_a_larger_one(experiment_data):
    pools = {size: load(experiment_data, pool_size=size)[0]["row_id"].to_pylist() for size in (1, 5, 20, None)}
    assert [len(p) for p in pools.values()] == [1, 5, 20, 30]
    assert set(pools[1]) < set(pools[5]) < set(pools[20]) < set(pools[None])
    assert pools[20] != [f"old.jsonl:q{k}" for k in range(20)]
    assert load(experiment_data, pool_size=5)[0]["row_id"].to_pylist() == pools[5]
    assert load(experiment_data, pool_size=5)[1].eligible == 30


def test_ratio_zero_reads_no_source(experiment_data):
    table, counts = load(experiment_data, ratio=0, sources=[{"path": "none.jsonl"}])
    assert (table.num_rows, counts.read, counts.pool) == (0, 0, 0)
    assert table.column_names == ["row_id", "source", "inputs", "targets"]
    with pytest.raises(DataError, match="does not exist"):
        load(experiment_data, ratio=0.1)


SECRET = "The secret test sentence."


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (SECRET, "good"),
        (f"Is this good?\n  {SECRET.upper()}\nAnswer:", "yes"),
        (f"Sentence: {SECRET}", "yes"),
        (f'Translate "{SECRET}" into Javanese.', "x"),
        (f"Translate “{SECRET}” into Javanese.", "x"),
        (f"Translate '{SECRET}' into Javanese.", "x"),
        ("Translate it.", SECRET),
    ],
)
def test_an_instruction_that_holds_an_evaluation_sentence_is_dropped(experiment_data, tmp_path, inputs, targets):
    rows = [{"inputs": "Say hello.", "targets": "hello"}, {"inputs": inputs, "targets": targets}]
    write(tmp_path, rows)
    table, counts = load(experiment_data, [SECRET])
    assert table["inputs"].to_pylist() == ["Say hello."]
    assert (counts.read, counts.leaked, counts.eligible, counts.pool) == (2, 1, 1, 1)
    table, counts = load(experiment_data)
    assert inputs in table["inputs"].to_pylist()
    assert counts.leaked == 0


def test_empty_and_long_instructions_are_counted(experiment_data, tmp_path):
    rows = [{"inputs": " ", "targets": "x"}, {"inputs": "x", "targets": ""}, {"inputs": "x", "targets": None}]
    rows += [{"inputs": "long", "targets": "x"}, {"inputs": "ok", "targets": "fine"}]
    write(tmp_path, rows)
    table, counts = load(experiment_data, fits=lambda inputs, targets: inputs != "long")
    assert table.to_pylist() == [{"row_id": "old.jsonl:4", "source": "old.jsonl", "inputs": "ok", "targets": "fine"}]
    assert (counts.read, counts.empty, counts.too_long, counts.pool) == (5, 3, 1, 1)


def test_nothing_left_is_refused(experiment_data):
    with pytest.raises(DataError, match="no usable instruction"):
        load(experiment_data, fits=lambda inputs, targets: False)


LONG = "The old farmer buys two red fish at the market every single morning before the sun comes up."


def test_an_instruction_that_holds_most_of_an_evaluation_sentence_is_dropped(experiment_data, tmp_path):
    part = LONG.replace("before the sun comes up", "with his wife")
    rows = [
        {"inputs": f"Summarise: it rained. {part} They went home.", "targets": "x"},
        {"inputs": "a", "targets": "b"},
    ]
    write(tmp_path, rows)
    table, counts = load(experiment_data, [LONG])
    assert table["inputs"].to_pylist() == ["a"]
    assert (counts.leaked, counts.overlapping) == (1, 1)
    named = EvaluationIndex.build({"news": [LONG], "mood": ["nothing of it"]})
    counts = load_replay(build_experiment(experiment_data, "x"), named, lambda a, b: True)[1]
    assert counts.leaked_from == {"news": 1}
    off = EvaluationIndex.build([LONG], threshold=None)
    table, counts = load_replay(build_experiment(experiment_data, "x"), off, lambda a, b: True)
    assert (table.num_rows, counts.leaked) == (2, 0)
