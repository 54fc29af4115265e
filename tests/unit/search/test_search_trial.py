import json
import pickle

import pytest
import torch

from ialign_ray.config import build_experiment, override
from ialign_ray.errors import CheckpointError, ConfigError
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.search import trial as trial_module
from ialign_ray.search.objective import References, worth
from ialign_ray.search.trial import read_losses
from ialign_ray.search.trial_cache import base_model, fresh, share
from ialign_ray.search.trial_context import assemble, control_point
from ialign_ray.storage import is_intact
from ialign_ray.streaming.examples import encode_example
from ialign_ray.training.prepare import prepare
from ialign_ray.training.run_log import ledger, records

CPU = torch.device("cpu")
SPACE = {"replay.ratio": {"choice": [0, 0.5]}, "model.lora.rank": {"choice": [2, 4]}, "train.seed": {"choice": [0, 1]}}


@pytest.fixture
def experiment(experiment_data):
    experiment_data["train"] |= {"steps": 9, "validation": {"pairs": 24, "instructions": 3}}
    return build_experiment(experiment_data | {"search": {"space": SPACE, "reduction": 3}}, "x")


@pytest.fixture
def shared(experiment):
    return assemble(experiment)


def run_of(shared, folder, point):
    return shared.trial(point, folder, None, shared.trial_context(CPU))


def weights(run):
    return {n: p.detach().clone() for n, p in run.model.named_parameters() if p.requires_grad}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_trial_is_an_ordinary_run_validated_at_each_budget(shared, tmp_path):
    from peft import PeftModel

    run = run_of(shared, tmp_path / "t", {"replay.ratio": 0.5, "model.lora.rank": 2})
    found = [run.report(k) for k in range(3)]
    assert [(r["budget"], r["step"], r["last"]) for r in found] == [(1, 1, False), (3, 3, False), (9, 9, True)]
    assert [r["step"] for r in records(tmp_path / "t")] == list(range(1, 10))
    assert found[-1]["tokens"] == sum(r["tokens"] for r in records(tmp_path / "t"))
    assert ledger(tmp_path / "t").num_rows == 9 * 4
    assert is_intact(tmp_path / "t" / "model")
    model = PeftModel.from_pretrained(load_base(shared.experiment.model), tmp_path / "t" / "model")
    assert model.peft_config["default"].r == 2
    losses = [run.losses(b) for b in (1, 3, 9)]
    assert losses[0].new.shape == losses[2].new.shape
    assert losses[0].new.tolist() != losses[2].new.tolist()


def test_budgets_change_nothing_of_the_training(shared, experiment, tmp_path):
    once = assemble(override(experiment, {"search.min_budget": 9}))
    point = {"replay.ratio": 0.5, "model.lora.rank": 4}
    a, b = run_of(shared, tmp_path / "a", point), run_of(once, tmp_path / "b", point)
    a.report(2), b.report(0)
    assert once.ends == [9]
    assert same(weights(a), weights(b))


@pytest.mark.parametrize("lost", ["report", "validation", "step"])
def test_a_killed_trial_ends_with_the_same_bits_and_repeats_nothing(shared, tmp_path, monkeypatch, lost):
    class Killed(Exception):
        pass

    point = {"replay.ratio": 0.5}
    whole = run_of(shared, tmp_path / "whole", point)
    whole.report(2)

    def killed(*args, **kwargs):
        raise Killed

    run = run_of(shared, tmp_path / "killed", point)
    run.report(0)
    name = {"report": "write_json", "validation": "losses", "step": "run_loop"}[lost]
    monkeypatch.setattr(trial_module, name, killed)
    with pytest.raises(Killed):
        run.report(1)
    monkeypatch.undo()

    again = run_of(shared, tmp_path / "killed", point)
    assert [r["budget"] for r in again.reports] == [1]
    again.report(2)
    assert same(weights(whole), weights(again))
    assert [r["step"] for r in records(tmp_path / "killed")] == list(range(1, 10))
    assert ledger(tmp_path / "killed").num_rows == 36


def test_what_was_reported_is_read_and_not_trained_again(shared, tmp_path, monkeypatch):
    first = run_of(shared, tmp_path / "t", {"replay.ratio": 0.5})
    known = first.report(2)
    monkeypatch.setattr(trial_module, "run_loop", lambda *a: pytest.fail("trained again"))
    again = run_of(shared, tmp_path / "t", {"replay.ratio": 0.5})
    assert [again.report(k)["budget"] for k in range(3)] == [1, 3, 9]
    assert again.report(2) == known
    other = run_of(shared, tmp_path / "t", {"replay.ratio": 0.5, "model.lora.rank": 2})
    with pytest.raises(CheckpointError, match="other settings"):
        other.report(0)


def test_a_budget_in_tokens_is_spent_by_every_dose(experiment, tmp_path):
    by_tokens = assemble(override(experiment, {"search.unit": "tokens", "search.budget": 900}))
    spent = []
    for ratio in (0.0, 0.5):
        run = run_of(by_tokens, tmp_path / str(ratio), {"replay.ratio": ratio})
        reports = [run.report(k) for k in range(3)]
        assert [r["budget"] for r in reports] == [100, 300, 900]
        for r in reports:
            last = records(tmp_path / str(ratio))[r["step"] - 1]["tokens"]
            assert r["tokens"] - last < r["budget"] <= r["tokens"]  # the step that crosses it is the last
        spent.append(reports[-1]["step"])
    assert spent[0] != spent[1]  # instructions are shorter here, so as many tokens are more steps


def test_control_and_base_are_what_trials_are_compared_with(shared, tmp_path):
    control = run_of(shared, tmp_path / "c", control_point(0))
    control.base_losses()
    control.report(2)
    assert set(ledger(tmp_path / "c")["task"].to_pylist()) == {"replay"}
    l1 = shared.experiment.languages.l1
    known = References(
        read_losses(tmp_path / "c", 0, l1), [(b, read_losses(tmp_path / "c", b, l1)) for b in shared.ends]
    )
    run = run_of(shared, tmp_path / "t", {"replay.ratio": 0.0})
    run.report(2)
    found = worth(run.losses(9), known, 9, shared.experiment.search)
    assert found.gain.value > 0  # pairs teach the pairs' text better than instructions do
    assert found.gain.n == len(known.base.new)
    itself = worth(control.losses(9), known, 9, shared.experiment.search)
    assert itself.gain.value == 0


@pytest.mark.parametrize(
    "point", [{"replay.ratio": 0.5}, {"replay.ratio": 0.5, "replay.pool_size": 5}, {"train.seed": 1}]
)
def test_the_shelf_gives_what_the_trials_own_preparation_would(shared, point):
    experiment = override(shared.experiment, point)
    prepared = prepare(experiment)
    example_cache = shared.example_cache(experiment)
    before = len(example_cache.made)
    steps = example_cache.steps(example_cache.trial_plan(experiment), 4, 2)
    for step in range(2, 9):
        expected = [encode_example(prepared.plan, prepared.encoder, i) for i in range(4 * step, 4 * step + 4)]
        assert next(steps) == expected
    if "replay.pool_size" not in point:
        assert len(example_cache.made) == before  # all were encoded before the first trial


def test_weights_are_one_memory_and_a_trial_leaves_them_alone(tiny_model_folder, shared, tmp_path):
    model = load_base(shared.experiment.model)
    known = {n: p.detach().clone() for n, p in model.named_parameters()}
    parts = pickle.loads(pickle.dumps(share(model)))
    assert sum(a.nbytes for a in parts.arrays.values()) == sum(p.numel() * 4 for p in known.values())
    one, two = base_model(parts, CPU), base_model(parts, CPU)
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, known[name])
        assert a.data_ptr() == b.data_ptr()
    adapted = add_adapter(fresh(one, writable=False), shared.experiment.model.lora, 0)
    assert next(p for n, p in adapted.named_parameters() if "base_layer" in n).data_ptr() in {
        p.data_ptr() for p in one.parameters()
    }
    assert not any("lora" in n for n, _ in one.named_modules())  # the next trial finds plain layers
    copied = fresh(one, writable=True)
    assert all(p.requires_grad for p in copied.parameters())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in one.parameters())


def test_tied_weights_stay_tied(tmp_path, tiny_tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=True, **size)).to(torch.bfloat16)
    made = base_model(share(model), CPU)
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(made(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    full = fresh(made, writable=True)
    assert full.get_output_embeddings().weight is full.get_input_embeddings().weight


def test_full_tuning_trains_a_copy(experiment_data, tmp_path):
    experiment_data["model"] = {"id": experiment_data["model"]["id"], "tuning": "full"}
    experiment_data["train"] |= {"steps": 2, "learning_rate": 1e-3, "validation": {"pairs": 24, "instructions": 3}}
    space = {"replay.ratio": {"choice": [0, 0.5]}}
    shared = assemble(build_experiment(experiment_data | {"search": {"space": space}}, "x"))
    trial_context = shared.trial_context(CPU)
    before = {n: p.clone() for n, p in trial_context.base.named_parameters()}
    run = shared.trial({"replay.ratio": 0.5}, tmp_path / "t", None, trial_context)
    run.report(0)
    assert all(torch.equal(p, before[n]) for n, p in trial_context.base.named_parameters())
    assert any(not torch.equal(p, before[n]) for n, p in run.model.named_parameters())


def test_test_suites_are_not_among_what_chooses(shared, experiment_data, tmp_path):
    import pyarrow.parquet as pq

    tested = {r["eng"] for r in pq.read_table(tmp_path / "suite.parquet").to_pylist()}
    texts = [shared.encoder.tokenizer.decode(e.prompt + e.target) for e in shared.held_out]
    assert texts
    assert not any(sentence in text for sentence in tested for text in texts)


def test_too_few_rows_to_hold_out_is_one_sentence(experiment_data, tmp_path):
    (tmp_path / "old.jsonl").write_text(json.dumps({"id": 1, "inputs": "Say one.", "targets": "one"}) + "\n")
    data = experiment_data | {"search": {"space": {"replay.ratio": {"choice": [0, 0.5]}}}}
    with pytest.raises(ConfigError, match="no old instructions can be held out"):
        assemble(build_experiment(data, "x"))
