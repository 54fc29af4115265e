"""A planted truth: a model trained on episodes whose label words are drawn anew can only answer by its exemplars."""

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ialign_ray.config import build_experiment
from ialign_ray.evaluation.metrics.classification import predict, score_matrix
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.tokens.encode import Encoder

TOPICS, FILLERS, LABELS = [f"t{k}" for k in range(32)], [f"f{k}" for k in range(32)], ["bad", "good"]
PROMPT = "{text} ="
ROWS = 12
"""Training rows of a topic; the suite has half as many test rows."""
NOISE = 0.25
CONTEXTS = [
    {"name": "icl", "exemplars": {"k": 1}},
    {"name": "icl-many", "exemplars": {"k": 3}},
    {"name": "permuted", "exemplars": {"k": 1, "labels": "permuted"}},
    {"name": "random", "exemplars": {"k": 1, "retriever": "random"}},
]


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<eos>", "<pad>", "=", *LABELS, *TOPICS, *FILLERS]
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="module")
def scorer(tokenizer):
    """The trained model, in the format of the experiment."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=0, pad_token_id=1, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    train(model)
    return Scorer(model.eval(), Encoder.of(tokenizer, "never", "\n"), 4096)


def train(model, steps=1500, batch=64):
    """Episodes of four exemplars and a question; two topics each, whose label words are drawn for every episode."""
    rng, optimizer = np.random.default_rng(0), torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        ids = episodes(rng, batch)
        logits = model(ids).logits
        # every label is learned, those of a topic's first exemplar too, which cannot be known
        learned = ids[:, 4::5]
        loss = torch.nn.functional.cross_entropy(logits[:, 3::5].flatten(0, 1), learned.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(step, float(loss))


def episodes(rng, batch, size=5):
    """Token ids (batch, 5 * size) of texts "topic topic filler =" with their labels."""
    topics = np.stack([rng.choice(32, 2, replace=False) for _ in range(batch)])
    labels = rng.integers(0, 2, (batch, 2))
    which = rng.integers(0, 2, (batch, size))
    topic, label = np.take_along_axis(topics, which, 1) + 5, np.take_along_axis(labels, which, 1) + 3
    filler = rng.integers(0, 32, (batch, size)) + 37
    return torch.from_numpy(np.stack([topic, topic, filler, np.full_like(topic, 2), label], -1).reshape(batch, -1))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, scorer):
    """Function of label noise that returns predictions by context."""

    def of_noise(noise):
        folder = tmp_path_factory.mktemp("truth")
        rng, rows = np.random.default_rng(1), []
        for k, topic in enumerate(TOPICS):
            for n in range(ROWS * 3 // 2):
                split = "test" if n % 3 == 2 else "train"
                label = k % 2 if split == "test" or rng.random() >= noise else 1 - k % 2
                text = f"{topic} {topic} {FILLERS[(k + 7 * n) % 32]}"
                rows.append({"sid": f"{k}-{n}", "text": text, "label": LABELS[label], "split": split})
        pd.DataFrame(rows).to_csv(folder / "suite.csv", index=False)
        suite = {
            "kind": "classification", "name": "topics", "path": "suite.csv", "columns": {"jav": "text"}, "id": "sid",
            "labels": {label: {"eng": label} for label in LABELS}, "prompts": [{"name": "plain", "text": PROMPT}],
        }  # fmt: skip
        data = {
            "name": "truth",
            "languages": {"l1": ["eng"], "l2": ["jav"]},
            "model": {"id": "unused"},
            "evaluate": {"suites": [suite], "contexts": CONTEXTS},
            "storage": {"data": str(folder), "runs": str(folder / "runs")},
        }
        experiment = build_experiment(data, "test")
        units = [*suite_units(experiment), *contexted_units(experiment, [c["name"] for c in CONTEXTS])]
        return {unit.context: unit.finish(unit.predict(scorer, unit.rows)) for unit in units}

    return of_noise


def accuracy(frame, scorer="sum"):
    shares = predict(score_matrix(frame[scorer]))
    return shares[np.arange(len(frame)), frame["label"]].mean()


@pytest.mark.slow
def test_a_model_that_can_only_read_labels_is_right_with_right_labels_and_at_chance_without(predicted):
    found = predicted(0.0)
    for name in found:
        print(name, len(found[name]), accuracy(found[name]), accuracy(found[name], "batch"), accuracy(found[name], "calibrated"))
