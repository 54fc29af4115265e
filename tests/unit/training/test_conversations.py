"""Conversations as training examples: every answer is learned, as transformers' own masked loss computes it."""

import json
from dataclasses import replace

import pytest
import torch
from test_loop import Kept
from tiny_chats import tokenizer, turns
from tiny_models import CAUSAL, seeded

from ialign_ray.config import InstructionSource, build_experiment
from ialign_ray.streaming.examples import ExampleSource, encode_example, local_stream
from ialign_ray.tasks.mixture import Mixture
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import instruction_pool
from ialign_ray.tokens.batch import Batching, Encoded
from ialign_ray.tokens.cache import Block, EncodedCache, example_at, read_block
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.objective import LanguageModeling, PassLayout
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.step import train_step
from ialign_ray.training.validation import encode_held_out, losses

CPU = torch.device("cpu")
SAID = turns("นี่อะไร", "บ้าน", "lan iki?", "sega", "и это?", "рис", system="Be kind.")


def examples():
    draw = torch.Generator().manual_seed(3)
    found = []
    for k, (prompt, target, context) in enumerate([(5, 9, [2, 3, 4]), (3, 4, []), (6, 8, [1, 2, 5, 6])]):
        ids = torch.randint(2, 61, (prompt + target,), generator=draw).tolist()
        found.append(Encoded(f"r{k}", 0, "replay", "replay", "t", ids[:prompt], ids[prompt:], context))
    return found


def masked_loss(model, example):
    """Summed loss of the learned tokens by transformers."""
    ids = torch.tensor([[*example.prompt, *example.target]])
    labels = ids.clone()
    labels[0, : len(example.prompt)] = -100
    for place in example.context:
        labels[0, len(example.prompt) + place] = -100
    return model(ids, labels=labels).loss * example.learned


@pytest.mark.parametrize("weighting", ["tokens", "examples"])
@pytest.mark.parametrize("batching", [Batching(), Batching(packed=True, width=32)])
def test_only_answers_are_learned(batching, weighting):
    model = seeded(CAUSAL["llama"]).double().eval()
    each = [masked_loss(model, one) for one in examples()]
    by = [1.0 if weighting == "tokens" else 1 / one.learned for one in examples()]
    size = sum(one.learned for one in examples()) if weighting == "tokens" else len(examples())
    wanted = sum(loss * weight for loss, weight in zip(each, by, strict=True)) / size
    wanted.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    kept = Kept(model)
    found = train_step(
        model, kept, examples(), step=0, seed=0, clip_norm=1e9, device=CPU, objective=LanguageModeling(weighting),
        layout=PassLayout.of(model, 4096, 0, batching),
    )  # fmt: skip
    assert found.loss == pytest.approx(float(wanted), abs=1e-9)
    assert found.counts["target_tokens"] == sum(one.learned for one in examples()) == 14
    torch.testing.assert_close(kept.gradients, gradients, atol=1e-6, rtol=1e-5)


def test_the_validation_loss_is_of_answers():
    model = seeded(CAUSAL["llama"]).double().eval()
    rows = losses(model, examples(), pad=0, device=CPU, micro_batch_tokens=64)
    wanted = [float(masked_loss(model, one)) for one in examples()]
    assert [nats for *_, nats in rows] == pytest.approx(wanted)
    assert [tokens for _, _, tokens, _ in rows] == [6, 4, 4]


def test_the_whole_conversation_is_learned_if_prompts_are():
    [one] = LanguageModeling(whole=True).collate(examples()[:1], PassLayout(99, 0))
    assert len(one.labels) == len(examples()[0]) - 1


@pytest.fixture
def pool(tmp_path):
    rows = [{"id": "chat", "messages": SAID}, {"id": "one", "messages": turns("good", "bad")}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = InstructionSource(path="chats.jsonl")
    return instruction_pool(source, str(tmp_path))


@pytest.mark.parametrize("family", [None, "chatml", "gemma"])
def test_from_the_file_to_the_worker(pool, tmp_path, family):
    encoder = Encoder.of(tokenizer("byte-level", family), "auto", "\n")
    plan = Plan.replay_only(pool, 0)
    save_data(tmp_path / "data", plan, encoder, encoded=tmp_path / "encoded")
    [step] = local_stream(ExampleSource(str(tmp_path / "data"), 2, 1), 0)
    by_id = {one.row_id.rpartition(":")[2]: one for one in step}
    found = by_id["chat"]
    assert (found.prompt, found.target, found.context) == encoder.encode_turns(SAID)
    assert found.learned == sum(len(encoder.target(text)) for text in ("บ้าน", "sega", "рис"))
    assert (by_id["one"].prompt, by_id["one"].target) == encoder.encode("good", "bad")
    cache = EncodedCache(str(tmp_path / "blocks"), "p", "r", Mixture(0, 1.0, 0, 2))
    cache.write(Block(True, 0, 0), step)
    block = read_block(cache.path(Block(True, 0, 0)))
    assert [example_at(block, k, 0) for k in (0, 1)] == step


def test_only_the_last_answer_if_so_set(pool):
    encoder = Encoder.of(tokenizer("byte-level", "chatml"), "auto", "\n", every_answer=False)
    found = {one.row_id: one for one in (encode_example(Plan.replay_only(pool, 0), encoder, i) for i in (0, 1))}
    one = found["chats.jsonl:chat"]
    assert (one.prompt, one.target, one.context) == (encoder.conversation(SAID[:-1]), encoder.target("рис"), [])


def test_held_out_conversations_and_those_that_do_not_fit(pool, experiment_data):
    encoder = Encoder.of(tokenizer("byte-level", "chatml"), "auto", "\n")
    plan = prepare(build_experiment(experiment_data, "x")).plan
    found = encode_held_out(plan, encoder, plan.pairs.slice(0, 0), pool)
    assert [(one.source, one.template, bool(one.context)) for one in found] == [
        ("instructions", "chats.jsonl", True),
        ("instructions", "chats.jsonl", False),
    ]
    short = replace(encoder, max_prompt=20, max_target=8)
    assert [one.row_id for one in encode_held_out(plan, short, plan.pairs.slice(0, 0), pool)] == ["chats.jsonl:one"]


@pytest.mark.parametrize(("family", "same"), [(None, True), ("gemma", False), ("llama3", False)])
def test_a_template_that_ends_turns_otherwise_changes_the_fingerprint(experiment_data, family, same):
    """Runs that are older than `Encoder.end` trained on EOS there: they are not continued on other tokens."""
    experiment = build_experiment(experiment_data, "x")
    prepared = prepare(experiment)
    other = replace(prepared, encoder=Encoder.of(tokenizer("byte-level", family), "auto", "\n"))
    assert (other.fingerprint(experiment) == prepared.fingerprint(experiment)) is same


def test_old_runs_keep_their_fingerprint_and_data(experiment_data, pool, tmp_path):
    experiment = build_experiment(experiment_data, "x")
    changed = build_experiment(experiment_data | {"replay": experiment_data["replay"] | {"loss_on": "last_turn"}}, "x")
    prepared = prepare(experiment)
    assert prepared.fingerprint(experiment) != prepared.fingerprint(changed)
    assert prepared.encoder.every_answer
    assert not prepare(changed).encoder.every_answer
    # a pool without conversations has the columns that it always had
    assert prepared.plan.replay.column_names == ["row_id", "source", "inputs", "targets"]
    assert pool.column_names[-1] == "turns"
    old = {"chat": False, "separator": "\n", "max_prompt": 9, "max_target": 9, "seq2seq": False, "lead": ""}
    assert Encoder(tokenizer(), **old).target("a")[-1] == tokenizer().eos_token_id
