"""A training objective of one's own: it is minimised, counted and resumed like language modelling."""

import pytest
import torch
from test_loop import CPU, Kept, Lost, Setting, lose_at, same, weights

from ialign_ray.config import TrainConfig, build_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.modeling.head import target_logits
from ialign_ray.streaming.examples import local_stream
from ialign_ray.tokens.batch import Batching
from ialign_ray.training.objective import OBJECTIVES, LanguageModeling, Objective, PassLayout, objective_of
from ialign_ray.training.prepare import prepare
from ialign_ray.training.run_log import records
from ialign_ray.training.step import train_step


class PerExample(LanguageModeling):
    """Mean nats per token of each example, then over examples."""

    def size(self, examples):
        return float(len(examples))

    def loss(self, model, part):
        lengths = torch.tensor([len(e.target) for e in part.examples])
        logits = target_logits(model, part.positions, **part.inputs)
        nats = torch.nn.functional.cross_entropy(logits.float(), part.labels, reduction="none")
        own = torch.stack([n.mean() for n in torch.split(nats, lengths.tolist())])
        return own.sum(), own.detach()

    def counts(self, examples):
        return {"long": sum(len(e.target) > 8 for e in examples)}


@pytest.fixture
def setting(experiment_data, tmp_path):
    return Setting(experiment_data, tmp_path, "lora")


def test_an_objective_decides_loss_and_counts(setting):
    model = setting.model()
    [examples, *_] = local_stream(setting.source, 0)
    found = {}
    for objective in (LanguageModeling(), PerExample()):
        kept = Kept(model)
        layout = PassLayout.of(model, 4096, 1)
        found[type(objective)] = train_step(
            model, kept, examples, step=0, seed=0, clip_norm=1e9, layout=layout, device=CPU, objective=objective
        )
    plain, own = found[LanguageModeling], found[PerExample]
    assert own.counts["long"] == sum(len(e.target) > 8 for e in examples)
    assert "long" not in plain.counts
    assert own.loss != pytest.approx(plain.loss)
    summed = sum(nats for nats, _ in own.sources.values())
    assert own.loss == pytest.approx(summed / len(examples))


def reference(model, examples, weight, whole=False):
    """Loss and gradient by transformers' own loss: the weighted mean over examples of their mean nats."""
    model.zero_grad()
    total = sum(weight(e) for e in examples)
    found = 0.0
    for e in examples:
        ids = torch.tensor([[*e.prompt, *e.target]])
        labels = ids.clone()
        labels[:, : 1 if whole else len(e.prompt)] = -100
        loss = model(input_ids=ids, labels=labels).loss * weight(e) / total
        loss.backward()
        found += float(loss)
    return found, [p.grad.clone() for p in model.parameters() if p.requires_grad]


WEIGHTS = {
    "examples": ({"weighting": "examples"}, lambda e: 1.0),
    "tokens": ({"weighting": "tokens"}, lambda e: len(e.target)),
    "by source": (
        {"weighting": "examples", "source_weights": {"replay": 3.0, "mt": 0.5, "mt/jav": 2.0}},
        lambda e: {"replay": 3.0, "mt/jav": 2.0}.get(e.source, 0.5 if e.task == "mt" else 1.0),
    ),
    "whole": ({"weighting": "tokens", "loss_on": "prompt_and_target"}, lambda e: len(e) - 1),
    "whole examples": ({"weighting": "examples", "loss_on": "prompt_and_target"}, lambda e: 1.0),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("batching", [Batching(), Batching(pass_tokens=0), Batching(packed=True)])
def test_what_weighs_alike(experiment_data, tmp_path, kind, batching):
    setting = Setting(experiment_data, tmp_path, "full")
    settings, weight = WEIGHTS[kind]
    model = setting.model()
    [examples, *_] = local_stream(setting.source, 0)
    loss, gradient = reference(model, examples, weight, whole=kind.startswith("whole"))
    kept = Kept(model)
    objective = objective_of(TrainConfig(**settings))
    layout = PassLayout.of(model, 128, 1, batching)
    model.zero_grad()
    found = train_step(
        model, kept, examples, step=0, seed=0, clip_norm=1e9, layout=layout, device=CPU, objective=objective
    )
    assert found.loss == pytest.approx(loss, rel=1e-5)
    for own, expected in zip(kept.gradients, gradient, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_shares_of_the_loss_are_those_of_the_mix_or_of_the_tokens():
    examples, tokens = {"replay": 50, "xss/jav": 25, "mt/jav": 25}, {"replay": 500, "xss/jav": 50, "mt/jav": 1450}
    assert objective_of(TrainConfig(weighting="examples")).shares(examples, tokens) == {
        "mt/jav": 0.25,
        "replay": 0.5,
        "xss/jav": 0.25,
    }
    by_tokens = objective_of(TrainConfig(weighting="tokens", source_weights={"xss": 10})).shares(examples, tokens)
    assert by_tokens == {"mt/jav": 1450 / 2450, "replay": 500 / 2450, "xss/jav": 500 / 2450}


@pytest.mark.parametrize("bad", [0, -1, "x"])
def test_a_weight_that_is_none_is_refused(experiment_data, bad):
    experiment_data["train"]["source_weights"] = {"replay": bad}
    with pytest.raises(ConfigError, match="train.source_weights.replay"):
        build_experiment(experiment_data, "x")


def test_runs_of_before_there_were_weights_keep_their_fingerprint(experiment_data):
    def print_of(**train):
        experiment = build_experiment(experiment_data | {"train": experiment_data["train"] | train}, "x")
        return prepare(experiment).fingerprint(experiment)

    before = print_of(weighting="tokens")
    assert before == print_of(weighting="tokens", source_weights={}, loss_on="target")
    others = [{"weighting": "examples"}, {"weighting": "tokens", "source_weights": {"xss": 2}}]
    assert before not in [print_of(**other) for other in others]


def test_a_run_of_another_objective_resumes_with_the_same_bits(setting):
    whole, _ = setting.run("whole", objective=PerExample())
    with pytest.raises(Lost):
        setting.run("broken", lose_at(4), objective=PerExample())
    resumed, start = setting.run("broken", objective=PerExample())
    assert start == 3
    assert same(weights(whole), weights(resumed))
    assert not same(weights(whole), weights(setting.run("plain")[0]))
    assert [r["long"] for r in records(setting.folder / "broken")] == [
        r["long"] for r in records(setting.folder / "whole")
    ]


def test_an_unknown_objective_is_refused_before_training(experiment_data):
    experiment_data["train"]["objective"] = "guessing"
    with pytest.raises(ConfigError, match=r"train.objective is 'guessing'.*language_modeling"):
        prepare(build_experiment(experiment_data, "x"))


def test_settings_of_before_there_were_objectives_keep_their_hash():
    assert "objective" not in TrainConfig().model_dump(mode="json")
    assert TrainConfig(objective="other").model_dump(mode="json")["objective"] == "other"
    assert TrainConfig.model_validate(TrainConfig().model_dump()) == TrainConfig()


def test_the_built_in_objective_is_found():
    assert isinstance(OBJECTIVES.find("language_modeling", "train.objective"), Objective)
