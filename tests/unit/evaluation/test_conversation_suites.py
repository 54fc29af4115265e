"""Suites of conversations: history as turns, and only the last answer is scored."""

import json

import pytest
import torch
from tiny_chats import tokenizer, turns
from tiny_models import CAUSAL, seeded

from ialign_ray.config import build_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.tokens.encode import Encoder

SAID = turns("นี่อะไร", "บ้าน", "lan iki?", "sega", system="Be kind.")


@pytest.fixture
def unit(experiment_data, tmp_path):
    rows = [{"id": "chat", "messages": SAID}, {"id": "one", "messages": turns("good", "bad")}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    experiment_data["evaluate"]["suites"] = [{"kind": "instructions", "name": "chats", "path": "chats.jsonl"}]
    [found] = suite_units(build_experiment(experiment_data, "x"))
    return found


@pytest.mark.parametrize("family", [None, "chatml", "gemma"])
def test_the_last_answer_is_scored_after_the_turns(unit, family):
    config = CAUSAL["llama"]
    config.vocab_size = 500
    model = seeded(config).eval()
    encoder = Encoder.of(tokenizer("byte-level", family), "auto", "\n")
    frame = unit.predict(Scorer(model, encoder, 4096), unit.rows)
    assert list(frame["id"]) == ["chats.jsonl:chat", "chats.jsonl:one"]
    asked = [(encoder.conversation(SAID[:-1]), encoder.target("sega")), (encoder.prompt("good"), encoder.target("bad"))]
    for (prompt, target), nats, tokens in zip(asked, frame["nats"], frame["tokens"], strict=True):
        ids = torch.tensor([[*prompt, *target]])
        labels = torch.tensor([[*[-100] * len(prompt), *target]])
        assert nats == pytest.approx(float(model(ids, labels=labels).loss.detach()) * len(target), rel=1e-4)
        assert tokens == len(target)
    assert set(frame.columns) == {"suite", "language", "id", "source", "nats", "tokens", "bytes"}


def test_a_conversation_that_the_template_refuses_is_left_out(experiment_data, tmp_path):
    good = [{"role": r, "content": "x y"} for r in ("user", "assistant")]
    twice = [{"role": r, "content": "x y"} for r in ("user", "user", "assistant")]
    rows = [{"id": "good", "messages": good}, {"id": "twice", "messages": twice}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    experiment_data["evaluate"]["suites"] = [{"kind": "instructions", "name": "chats", "path": "chats.jsonl"}]
    [unit] = suite_units(build_experiment(experiment_data, "x"))
    config = CAUSAL["llama"]
    config.vocab_size = 500
    encoder = Encoder.of(tokenizer("byte-level", "gemma"), "auto", "\n")
    predicted = unit.predict(Scorer(seeded(config).eval(), encoder, 4096), unit.rows)
    assert predicted["tokens"].eq(0).tolist() == [False, True]
    assert unit.finish(predicted)["id"].tolist() == ["chats.jsonl:good"]


def test_a_suite_of_single_requests_has_no_turns(experiment_data):
    experiment_data["evaluate"]["suites"] = [{"kind": "instructions", "name": "old", "path": "old.jsonl"}]
    [unit] = suite_units(build_experiment(experiment_data, "x"))
    assert "turns" not in unit.rows.columns


def test_named_columns_and_clusters(experiment_data, tmp_path):
    rows = [{"soal": f"q{k}", "jawab": "a", "bab": f"b{k // 2}"} for k in range(4)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite = {"kind": "instructions", "name": "chats", "path": "chats.jsonl", "cluster": "bab"}
    experiment_data["evaluate"]["suites"] = [suite | {"columns": {"inputs": "soal", "targets": "jawab"}}]
    [unit] = suite_units(build_experiment(experiment_data, "x"))
    assert list(unit.rows["prompt"]) == ["q0", "q1", "q2", "q3"]
    assert list(unit.rows["cluster"]) == ["b0", "b0", "b1", "b1"]
    tree = [{"message_id": k, "parent_id": k - 1 or None, "role": r, "text": "x", "bab": "a"}
            for k, r in ((1, "prompter"), (2, "assistant"))]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tree), encoding="utf-8")
    experiment_data["evaluate"]["suites"] = [suite]
    with pytest.raises(DataError, match="cluster"):
        suite_units(build_experiment(experiment_data, "x"))
