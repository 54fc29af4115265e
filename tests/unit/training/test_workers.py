"""What one step says to the other workers; the workers are real processes in test_sharding.py."""

import torch

from ialign_ray.config import LoraSettings, ModelSettings, build_experiment
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.sharding import FILLER, buckets, is_sharded, rounds, training_bytes
from ialign_ray.training.step import train_step


def parameters(*sizes):
    return [torch.nn.Parameter(torch.zeros(n)) for n in sizes]


def test_gradients_are_summed_in_messages_of_bounded_size():
    def sizes(*of):
        return [[p.numel() for p in bucket] for bucket in buckets(parameters(*of), 10)]

    assert sizes() == []
    assert sizes(4, 6, 1) == [[4, 6], [1]]
    assert sizes(99, 1, 99) == [[99], [1], [99]]


def test_a_model_that_is_not_sharded_needs_no_fillers():
    assert list(rounds(torch.nn.Linear(1, 1), ["a", "b"], "filler")) == ["a", "b"]


def test_memory_is_counted_as_adamw_takes_it(tiny_model_folder):
    settings = ModelSettings(id=str(tiny_model_folder))
    model = load_base(settings)
    assert training_bytes(model) == 16 * model.num_parameters()
    adapted = add_adapter(load_base(settings.model_copy(update={"precision": "bf16"})), LoraSettings(rank=2), 0)
    adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert training_bytes(adapted) == 2 * model.num_parameters() + 16 * adapter


def test_one_worker_alone_shards_nothing():
    assert not is_sharded("fsdp", torch.nn.Linear(1, 1), torch.device("cpu"))


def test_nothing_is_learned_from_a_filler(experiment_data, tmp_path):
    experiment = build_experiment(experiment_data, "x")
    prepared = prepare(experiment)
    save_data(tmp_path / "data", prepared.plan, prepared.encoder)
    [examples, *_] = local_stream(ExampleSource(str(tmp_path / "data"), 4, 1), 0)

    def step(examples):
        model = load_base(experiment.model)
        stats = train_step(
            model, torch.optim.SGD(model.parameters(), lr=1.0), examples, step=0, seed=0,
            clip_norm=1e9, layout=PassLayout.of(model, 16, 1), device=torch.device("cpu"),
        )  # fmt: skip
        return stats, model.state_dict()

    (one, alone), (two, filled) = step(examples), step([*examples, FILLER])
    assert (one.loss, one.sources, one.counts["target_tokens"]) == (two.loss, two.sources, two.counts["target_tokens"])
    assert all(torch.equal(alone[name], filled[name]) for name in alone)
