import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ialign_ray.config import InstructionSource, build_experiment
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.errors import DataError, ModelError
from ialign_ray.tasks.instructions import read_instructions
from ialign_ray.tasks.replay import load_replay

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def read(tmp_path, *rows, **source):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "old.jsonl").write_text(lines, encoding="utf-8")
    return read_instructions(InstructionSource(path="old.jsonl", **source), str(tmp_path))


def pairs(file):
    return [(row.inputs, row.targets) for row in file.rows]


def said(row):
    return [(turn["role"], turn["content"]) for turn in row.turns]


def openai(*contents, roles=(USER, ASSISTANT)):
    return [{"role": roles[k % len(roles)], "content": content} for k, content in enumerate(contents)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("many", [1, 4000])
def test_a_content_may_be_text_in_one_turn_and_parts_in_another(tmp_path, first, many):
    parts = openai([{"type": "text", "text": "Habari?"}], "Njema.")
    plain = [{"messages": openai("ສະບາຍດີ", "ສະບາຍດີ.")}] * many
    rows = [{"messages": parts}, *plain] if first else [*plain, {"messages": parts}]
    found = pairs(read(tmp_path, *rows))
    assert found[0 if first else -1] == ("Habari?", "Njema.")
    assert set(found) == {("Habari?", "Njema."), ("ສະບາຍດີ", "ສະບາຍດີ.")}
    assert len(found) == many + 1


def test_turns_are_read_from_a_column_of_any_name(tmp_path):
    found = read(tmp_path, {"dialog": openai("Habari?", "Njema.")}, columns={"turns": "dialog"})
    assert pairs(found) == [("Habari?", "Njema.")]


ONE = ("ประเทศไทยมีกี่จังหวัด", "77")


@pytest.mark.parametrize(
    "row",
    [
        {"inputs": ONE[0], "targets": ONE[1]},
        {"prompt": ONE[0], "completion": ONE[1]},
        {"prompt": ONE[0], "response": ONE[1]},
        {"instruction": ONE[0], "input": "", "output": ONE[1]},
        {"instruction": ONE[0], "input": None, "output": 77},
        {"instruction": ONE[0], "context": "", "response": ONE[1], "category": "open_qa"},
        {"question": ONE[0], "answer": ONE[1]},
        {"system_prompt": "", "question": ONE[0], "response": ONE[1]},
        {"messages": openai(*ONE)},
        {"messages": json.dumps(openai(*ONE))},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ONE[0]}]},
                      {"role": "assistant", "content": [{"type": "output_text", "text": ONE[1]}]}]},
        {"prompt": "left out", "messages": openai(*ONE)},
        {"conversations": [{"from": "human", "value": ONE[0]}, {"from": "gpt", "value": ONE[1]}]},
        {"messages": [{"from": "Human", "value": ONE[0]}, {"from": "GPT", "value": ONE[1]}]},
        {"prompt": openai(ONE[0]), "completion": openai(ONE[1], roles=(ASSISTANT,))},
        {"prompt": openai(ONE[0]), "completion": ONE[1]},
        {"message_tree_id": "t", "prompt": {"text": ONE[0], "role": "prompter", "replies": [
            {"text": "เจ็ด", "role": "assistant", "rank": 1, "replies": []},
            {"text": ONE[1], "role": "assistant", "rank": 0, "replies": []}]}},
    ],
)  # fmt: skip
def test_one_instruction_in_every_form(tmp_path, row):
    file = read(tmp_path, row)
    assert pairs(file) == [ONE]
    assert (file.rows[0].turns, file.dropped.total()) == ((), 0)


def test_further_text_is_part_of_the_request(tmp_path):
    alpaca = {"instruction": "แปล", "input": "บ้าน", "output": "omah"}
    assert pairs(read(tmp_path, alpaca)) == [("แปล\n\nบ้าน", "omah")]
    dolly = {"instruction": "Где?", "context": "Дом в лесу.", "response": "В лесу."}
    assert pairs(read(tmp_path, dolly)) == [("Где?\n\nДом в лесу.", "В лесу.")]


def test_turns_stay_turns(tmp_path):
    texts = ("ما هذا؟", "بيت", "و هذا؟", "سمك")
    rows = [
        {"messages": [*openai(*texts, "شكرا")]},
        {"messages": [{"role": "developer", "content": "x"}, *openai(*texts)]},
        {"messages": [{"role": "system", "content": " "}, *openai(*texts)]},
    ]
    found = read(tmp_path, *rows).rows
    plain = [*zip((USER, ASSISTANT) * 2, texts, strict=True)]
    assert [said(row) for row in found] == [plain, [(SYSTEM, "x"), *plain], plain]
    assert (found[0].inputs, found[0].targets) == ("\n".join(texts[:3]), "سمك")
    share = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    assert said(read(tmp_path, {"conversations": share, "system": "x"}).rows[0]) == [(SYSTEM, "x"), *plain]
    trl = {"prompt": openai(*texts[:3]), "completion": openai(texts[3], roles=(ASSISTANT,))}
    assert said(read(tmp_path, trl).rows[0]) == plain


def test_messages_of_a_tree_are_one_conversation(tmp_path):
    def message(own, parent, role, text, rank=None):
        return {"message_id": own, "parent_id": parent, "role": role, "text": text, "rank": rank}

    rows = [
        message("a", None, "prompter", "Apa iki?"),
        message("c", "a", "assistant", "sega", 1),
        message("b", "a", "assistant", "omah", 0),
        message("d", "b", "prompter", "lan iki?"),
        message("e", "d", "assistant", "iwak"),
        message("x", None, "prompter", "no answer"),
    ]
    file = read(tmp_path, *rows)
    assert [row.row_id for row in file.rows] == ["old.jsonl:a", "old.jsonl:x"]
    assert [text for _, text in said(file.rows[0])] == ["Apa iki?", "omah", "lan iki?", "iwak"]
    assert pairs(file)[1] == ("", "")


def test_only_null_and_blank_texts_are_empty(tmp_path):
    assert pairs(read(tmp_path, {"inputs": "a", "targets": 0}, {"inputs": "b", "targets": 7})) == [
        ("a", "0"),
        ("b", "7"),
    ]
    assert pairs(read(tmp_path, {"inputs": "a", "targets": False}))[0] == ("a", "False")
    assert pairs(read(tmp_path, {"question": "a", "answer": 0.0}))[0] == ("a", "0.0")
    empty = [{"inputs": "a", "targets": None}, {"inputs": " ", "targets": "b"}, {"inputs": "a", "targets": "\n"}]
    assert pairs(read(tmp_path, *empty)) == [("", "")] * 3
    turns = [openai("a", None), openai("a", "b", None, "c"), openai("a"), [{"role": "user"}, {"role": "assistant"}], []]
    assert pairs(read(tmp_path, *({"messages": one} for one in turns))) == [("", "")] * 5
    pq.write_table(pa.table({"inputs": ["a"], "targets": [float("nan")]}), tmp_path / "old.parquet")
    [row] = read_instructions(InstructionSource(path="old.parquet"), str(tmp_path)).rows
    assert row.targets == ""


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "b", "function_call": {"name": "f"}},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": "x"}]},
    ],
)
def test_a_conversation_with_more_than_text_is_dropped_and_counted(tmp_path, turn):
    file = (
        read(tmp_path, {"messages": [{"role": "user", "content": "a"}, turn, {"role": "assistant", "content": "b"}]})
        if not isinstance(turn["content"], list)
        else read(tmp_path, {"messages": [turn]})
    )
    assert (pairs(file), dict(file.dropped)) == ([("", "")], {"unsupported": 1})


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"messages": "hello"}, "hello"),
        ({"messages": 7}, "7"),
        ({"messages": ["hello"]}, "hello"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "narrator"),
        ({"messages": [{"content": "x"}]}, "None"),
        ({"messages": [{"role": "user", "content": {"a": "x"}}]}, "'a'"),
        ({"inputs": ["x"], "targets": "y"}, "'x'"),
        ({"inputs": "x", "targets": {"a": 1}}, "'a'"),
        ({"prompt": {"text": "x"}}, "'x'"),
        ({"prompt": "x"}, "x"),
    ],
)
def test_another_shape_is_refused_with_its_line_or_counted(tmp_path, row, word):
    key = next(iter(row))
    good = dict.fromkeys(row)
    with pytest.raises(DataError) as caught:
        read(tmp_path, row, good)
    assert "old.jsonl:1: " in str(caught.value)
    assert word in str(caught.value)
    file = read(tmp_path, row, bad_rows="drop")
    assert (pairs(file), dict(file.dropped)) == ([("", "")], {"malformed": 1}), key


def test_columns_of_another_name(tmp_path):
    row = {"soal": "Где дом?", "jawab": "В лесу.", "aturan": "Кратко.", "ngarep": "Лес."}
    named = {"inputs": "soal", "targets": "jawab"}
    assert pairs(read(tmp_path, row, columns=named)) == [("Где дом?", "В лесу.")]
    file = read(tmp_path, row, columns={**named, "system": "aturan"})
    assert said(file.rows[0]) == [(SYSTEM, "Кратко."), (USER, "Где дом?"), (ASSISTANT, "В лесу.")]
    asked = read(tmp_path, row, columns={"targets": "jawab"}, template="{ngarep}\n{soal}")
    assert pairs(asked) == [("Лес.\nГде дом?", "В лесу.")]
    chat = {"obrolan": openai("a", "b", "c", "d")}
    assert len(read(tmp_path, chat, columns={"turns": "obrolan"}).rows[0].turns) == 4
    with pytest.raises(DataError, match=r"old\.jsonl has no column 'jawaban'"):
        read(tmp_path, row, columns={"inputs": "soal", "targets": "jawaban"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": {"inputs": "a"}},
        {"columns": {"targets": "a"}},
        {"columns": {"system": "a"}},
        {"columns": {"turns": "a", "inputs": "b", "targets": "c"}},
        {"columns": {"inputs": "a", "targets": "b"}, "template": "{a}"},
        {"template": "{a}"},
        {"columns": {"targets": "b"}, "template": "no slot"},
        {"columns": {"answer": "b"}},
    ],
)
def test_half_a_mapping_is_refused(wrong):
    with pytest.raises(ValidationError):
        InstructionSource(path="x", **wrong)


def load(data, fits, secrets=()):
    return load_replay(build_experiment(data, "x"), EvaluationIndex.build(secrets), fits)


def test_a_pool_of_conversations(experiment_data, tmp_path):
    rows = [
        {"messages": openai("a", "b")},
        {"messages": openai("a", "b", "c", "d")},
        {"messages": [*openai("x", roles=(ASSISTANT,)), *openai("a", "b")]},
        {"messages": openai("long", "b", "c", "d")},
        {"messages": openai("a", "The secret test sentence.", "c", "d")},
        {"messages": [*openai("a"), {"role": "tool", "content": "b"}]},
    ]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def fits(inputs, targets, turns=()):
        if turns and turns[0]["role"] == ASSISTANT:
            raise ModelError("refused")
        return "long" not in inputs

    table, counts = load(experiment_data, fits, ["The secret test sentence."])
    assert sorted(str(row["turns"] and len(json.loads(row["turns"]))) for row in table.to_pylist()) == ["4", "None"]
    found = (counts.read, counts.leaked, counts.unrenderable, counts.too_long, counts.unsupported, counts.pool)
    assert found == (6, 1, 1, 1, 1, 2)


def test_a_model_that_refuses_a_single_request_is_an_error(experiment_data):
    def fits(inputs, targets):
        raise ModelError("refused")

    with pytest.raises(ModelError):
        load(experiment_data, fits)
