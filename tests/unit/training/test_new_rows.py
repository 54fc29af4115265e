"""The rows of new pieces: where they begin, how they are trained, saved and loaded."""

import dataclasses

import peft
import pytest
import torch
from test_vocabulary import NEW, SETTINGS, byte_level, parts
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ialign_ray.config import LoraSettings, ModelSettings, TrainConfig, VocabularySettings, build_experiment
from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import target_logits
from ialign_ray.modeling.load import add_adapter, load_adapted, load_base, merge, save_model
from ialign_ray.modeling.vocabulary import extend_embeddings, extend_tokenizer, new_pieces, trainable_rows
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.card import model_card
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, make_optimizer, run_loop
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import RunLog


def make_model(folder, base, *, tied, rows=None):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(base), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=base.eos_token_id, pad_token_id=base.pad_token_id, bos_token_id=None,
        tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    base.save_pretrained(folder)
    return ModelSettings(id=str(folder), lora=LoraSettings(rank=4), vocabulary=SETTINGS)


@pytest.fixture(scope="module")
def bpe():
    base = byte_level()
    return base, extend_tokenizer(base, NEW, SETTINGS).tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_is_the_mean_of_its_parts(bpe, tmp_path, tied):
    base, tokenizer = bpe
    settings = make_model(tmp_path, base, tied=tied)
    old, model = load_base(settings), load_base(settings)
    rows = extend_embeddings(model, base, tokenizer)
    assert rows == list(new_pieces(base, tokenizer).values())
    assert model.config.vocab_size == len(tokenizer)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(old, get)().weight, getattr(model, get)().weight
        assert after.shape == (len(tokenizer), 32)
        assert torch.equal(after[: len(base)], before)
        for new, cut in parts(base, tokenizer).items():
            torch.testing.assert_close(after[new], before[cut].mean(0))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


def test_a_padded_matrix_keeps_its_size(bpe, tmp_path):
    base, tokenizer = bpe
    settings = make_model(tmp_path, base, tied=False, rows=len(base) + 100)
    model = load_base(settings)
    rows = extend_embeddings(model, base, tokenizer)
    weight = model.get_input_embeddings().weight
    assert len(weight) == len(base) + 100 > len(tokenizer)
    torch.testing.assert_close(weight[rows[0]], weight[parts(base, tokenizer)[rows[0]]].mean(0))


def test_a_tokenizer_without_new_pieces_changes_nothing(bpe, tmp_path):
    base, _ = bpe
    model = load_base(make_model(tmp_path, base, tied=True))
    assert extend_embeddings(model, base, base) == []
    assert model.config.vocab_size == len(base)
    assert trainable_rows(model, [], "all-linear") is None


def test_what_peft_cannot_train_is_refused(bpe, tmp_path):
    base, _ = bpe
    model = load_base(make_model(tmp_path, base, tied=False))
    assert trainable_rows(model, [1], "all-linear") == {"model.embed_tokens": [1], "lm_head": [1]}
    with pytest.raises(ModelError, match="lora.targets names lm_head"):
        trainable_rows(model, [1], ["q_proj", "lm_head"])
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(base)))
    with pytest.raises(ModelError, match="the output head has a bias"):
        trainable_rows(model, [1], "all-linear")


# ------------------------------------------------------------------------------------------------- training


class Run:
    """A few steps of the plain loop on a model whose tokenizer was extended."""

    def __init__(self, data, folder, base, tokenizer, tuning, tied):
        self.settings = make_model(folder / "base", base, tied=tied)
        self.settings = self.settings.model_copy(update={"tuning": tuning})
        data["model"] = self.settings.model_dump() | {"vocabulary": None}
        data["train"] |= {"learning_rate": 0.05, "steps": 4, "checkpoint_every": 2}
        experiment = build_experiment(data, "x")
        prepared = prepare(experiment)
        encoder = dataclasses.replace(prepared.encoder, tokenizer=tokenizer, chat=False)
        save_data(folder / "data", prepared.plan, encoder)
        self.source = ExampleSource(str(folder / "data"), 4, 4)
        self.experiment, self.folder, self.base, self.tokenizer = experiment, folder, base, tokenizer

    def model(self):
        model = load_base(self.settings)
        rows = extend_embeddings(model, self.base, self.tokenizer)
        return add_adapter(model, self.settings.lora, 0, rows) if self.settings.tuning == "lora" else model

    def train(self, stop=None):
        model = self.model()
        loop = Loop(
            settings=self.experiment.train,
            stream=lambda start: local_stream(self.source, start),
            checkpoints=Checkpoints(self.folder / "checkpoints", "f"),
            run_log=RunLog(self.folder),
            pad=self.tokenizer.pad_token_id,
            device=torch.device("cpu"),
            on_step=stop or (lambda step: None),
        )
        run_loop(model, loop)
        return model

    def save(self, model):
        save_model(model, self.folder / "model")
        self.tokenizer.save_pretrained(self.folder / "model")
        return self.folder / "model"


@pytest.fixture(params=["lora-tied", "lora-untied", "full-tied"])
def run(request, experiment_data, tmp_path, bpe):
    tuning, tie = request.param.split("-")
    return Run(experiment_data, tmp_path, *bpe, tuning, tie == "tied")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def lora(request, experiment_data, tmp_path, bpe):
    return Run(experiment_data, tmp_path, *bpe, "lora", request.param)


def text_ids(tokenizer):
    return torch.tensor([tokenizer("Si kucing mangan iwak ing omah. The cat eats.")["input_ids"]])


def test_a_finished_folder_gives_the_same_logits_wherever_it_is_loaded(run, tmp_path):
    trained = run.train()
    folder = run.save(trained)
    tokens = text_ids(run.tokenizer)
    assert tokens.max() >= len(run.base)
    expected = trained(tokens).logits
    assert not torch.allclose(expected, run.model().eval()(tokens).logits, atol=1e-2)
    model, tokenizer = load_adapted(run.settings, folder)
    assert torch.equal(text_ids(tokenizer), tokens)
    torch.testing.assert_close(model(tokens).logits, expected)
    plain = merge(model)
    plain.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.config.vocab_size == len(tokenizer)
    torch.testing.assert_close(again(tokens).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("error::UserWarning")
def test_the_adapter_loads_as_its_card_says(lora, tmp_path):
    folder = lora.save(trained := lora.train())
    experiment = lora.experiment.model_copy(update={"model": lora.settings})
    record = {"run": "r", "drawn": {"tokens": 1, "by_source": {}, "loss_share": {}}, "ending": {"step": 1, "kept": 1}}
    card = model_card(experiment, record)
    code = card.split("```python\n")[1].split("```")[0].replace("THIS FOLDER", str(folder))
    names = {"AutoModelForCausalLM": AutoModelForCausalLM, "AutoTokenizer": AutoTokenizer, "PeftModel": peft.PeftModel}
    exec(code, names)
    tokens = text_ids(names["tokenizer"])
    torch.testing.assert_close(names["model"](tokens).logits, trained(tokens).logits)


def test_only_new_rows_and_the_adapter_are_trained_and_saved(lora):
    start, trained = lora.model(), lora.train()
    first = dict(start.named_parameters())
    changed = {n for n, p in trained.named_parameters() if not torch.equal(p, first[n])}
    asked = {n for n, p in trained.named_parameters() if p.requires_grad}
    assert changed == asked
    rows = [n for n in asked if "lora_" not in n]
    assert len(rows) == (1 if trained.config.tie_word_embeddings else 2)
    assert all(n.endswith("token_adapter.trainable_tokens_delta.default") for n in rows)
    for name in rows:
        moved = (dict(trained.named_parameters())[name] - first[name]).abs().sum(1) > 0
        assert moved.sum() > len(moved) / 2
    old = load_base(lora.settings)
    merged = merge(trained)
    for get in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(merged, get)().weight[: len(lora.base)], getattr(old, get)().weight)
    saved = sum(p.stat().st_size for p in lora.save(lora.train()).glob("*.safetensors"))
    assert saved < 1.2 * 4 * sum(p.numel() for n, p in first.items() if n in asked) + 20_000


def test_a_resumed_run_ends_with_the_same_bits(lora):
    class Lost(Exception):
        pass

    def lose(step):
        if step == 3:
            raise Lost

    whole = {n: p.detach().clone() for n, p in lora.train().named_parameters() if p.requires_grad}
    for folder in (lora.folder / "checkpoints").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with pytest.raises(Lost):
        lora.train(lose)
    resumed = dict(lora.train().named_parameters())
    assert all(torch.equal(resumed[n], p) for n, p in whole.items())


def test_the_head_on_chosen_positions_sees_the_trained_rows(lora):
    """Gradients through `target_logits` equal those of whole logits, for input and output rows alike."""
    model = lora.model()
    tokens = text_ids(lora.tokenizer)
    index = torch.arange(tokens.shape[1] - 1)
    logits = target_logits(model, index, input_ids=tokens)
    torch.nn.functional.cross_entropy(logits, tokens[0, 1:]).backward()
    chosen = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(tokens).logits[0, :-1], tokens[0, 1:]).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(chosen[name], parameter.grad)
    rows = [g for n, g in chosen.items() if "trainable_tokens" in n]
    assert all((g.abs().sum(1) > 0).any() for g in rows)


def test_training_in_half_precision_keeps_the_rows_in_full(bpe, tmp_path):
    base, tokenizer = bpe
    settings = make_model(tmp_path, base, tied=True).model_copy(update={"precision": "bf16"})
    model = load_base(settings)
    model = add_adapter(model, settings.lora, 0, extend_embeddings(model, base, tokenizer))
    types = {n: p.dtype for n, p in model.named_parameters() if p.requires_grad}
    assert set(types.values()) == {torch.float32}
    logits = target_logits(model, torch.arange(3), input_ids=text_ids(tokenizer))
    logits.float().sum().backward()
    make_optimizer(model, TrainConfig()).step()


def test_the_setting_is_off_by_default_and_understood(experiment_data):
    assert build_experiment(experiment_data, "x").model.vocabulary is None
    experiment_data["model"]["vocabulary"] = {"pieces": 7}
    assert build_experiment(experiment_data, "x").model.vocabulary == VocabularySettings(pieces=7, min_frequency=10)


def test_the_encoder_knows_the_new_pieces(bpe):
    base, tokenizer = bpe
    one, more = (Encoder.of(t, "auto", "\n") for t in (tokenizer, base))
    assert one.chat
    assert len(one.prompt("Si kucing mangan iwak")) < len(more.prompt("Si kucing mangan iwak"))
