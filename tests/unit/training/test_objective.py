"""A training objective of one's own: it is minimised, counted and resumed like language modelling."""

import pytest
import torch
from test_loop import CPU, Kept, Lost, Setting, lose_at, same, weights

from ialign_ray.config import TrainConfig, build_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.modeling.head import target_logits
from ialign_ray.streaming.examples import local_stream
from ialign_ray.training.objective import OBJECTIVES, LanguageModeling, Objective, PassLayout
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
