"""Each architecture family trains, resumes, exports and reloads; small random models of the real code."""

import pytest
import torch
from peft import PeftModel
from test_loop import Lost, Setting, consumed, gradient, lose_at, planned, same, weights
from test_seq2seq import finished, model_of, special
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from ialign_ray.inference.scoring import score_continuations
from ialign_ray.modeling.architecture import blocks, checkpoint_activations, is_encoder_decoder
from ialign_ray.modeling.load import load_base
from ialign_ray.streaming.examples import local_stream
from ialign_ray.training.runs import MODEL
from ialign_ray.workflows.export import export_model
from ialign_ray.workflows.predict import answer, open_model

pytestmark = pytest.mark.slow

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
GROUPED = SHAPE | {"num_key_value_heads": 1, "head_dim": 16}
CAUSAL = {
    # an embedding with a layer norm, ALiBi, tied head, gaps in the heads' joint matrix
    "bloom": lambda **ids: BloomConfig(hidden_size=32, n_layer=2, n_head=2, **ids),
    "llama": lambda **ids: LlamaConfig(**GROUPED, tie_word_embeddings=False, **ids),
    "qwen2": lambda **ids: Qwen2Config(**(SHAPE | {"num_key_value_heads": 1}), tie_word_embeddings=True, **ids),
    "qwen3": lambda **ids: Qwen3Config(**GROUPED, tie_word_embeddings=False, **ids),
    # soft caps, scaled and tied embeddings, layers that look back only so far
    "gemma2": lambda **ids: Gemma2Config(**GROUPED, sliding_window=32, **ids),
    "gemma3": lambda **ids: Gemma3TextConfig(**GROUPED, sliding_window=32, **ids),
    "gpt-neox": lambda **ids: GPTNeoXConfig(**SHAPE, **ids),
}
FULL = ("bloom", "gemma2", "mt5")


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory, tiny_tokenizer):
    """A model folder of each family, made when it is asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp("family") / family
            torch.manual_seed(0)
            if family in CAUSAL:
                tokenizer = tiny_tokenizer
                ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
                config = CAUSAL[family](vocab_size=len(tokenizer), bos_token_id=None, initializer_range=0.2, **ids)
                model = AutoModelForCausalLM.from_config(config)
            else:
                tokenizer = special(tiny_tokenizer, "$A <eos>")
                model = model_of(family, tokenizer)
            model.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(params=[*((f, "lora") for f in (*CAUSAL, "t5", "mt5")), *((f, "full") for f in FULL)], ids="-".join)
def setting(request, experiment_data, family_folders, tmp_path):
    family, tuning = request.param
    experiment_data["model"]["id"] = str(family_folders(family))
    return Setting(experiment_data, tmp_path, tuning)


def logits(model, tokenizer):
    ids = tokenizer(["The cat sees the rice.", "house"], padding=True, padding_side="right", return_tensors="pt")
    ids.pop("token_type_ids", None)
    if is_encoder_decoder(model):
        ids["decoder_input_ids"] = torch.tensor([[1, 5, 6], [1, 7, 8]])
    with torch.no_grad():
        return model(**ids).logits


def by_hand(model, example):
    """Log-probability of an example's target from one plain forward."""
    prompt, target = torch.tensor([example.prompt]), torch.tensor(example.target)
    with torch.no_grad():
        if is_encoder_decoder(model):
            start = torch.tensor([[model.config.decoder_start_token_id, *example.target[:-1]]])
            rows = model(input_ids=prompt, decoder_input_ids=start).logits[0]
        else:
            rows = model(input_ids=torch.cat([prompt, target[None]], 1)).logits[0, prompt.shape[1] - 1 : -1]
    return -functional.cross_entropy(rows, target, reduction="sum").item()


def test_it_trains_resumes_exports_and_reloads(setting):
    """With the bits of an undisturbed run; the folders are read by peft and transformers alone."""
    run, model = finished(setting)
    assert not same(weights(model), weights(setting.model()))
    with pytest.raises(Lost):
        setting.run("broken", lose_at(5))
    resumed, start = setting.run("broken")
    assert start == 3
    assert same(weights(model), weights(resumed))
    assert consumed(setting.folder / "broken") == consumed(run) == planned(setting)

    settings = setting.experiment.model
    lora, tokenizer = settings.tuning == "lora", AutoTokenizer.from_pretrained(run / MODEL)
    loader = AutoModelForSeq2SeqLM if is_encoder_decoder(model) else AutoModelForCausalLM
    base = loader.from_pretrained(settings.id if lora else run / MODEL)
    others = (PeftModel.from_pretrained(base, run / MODEL) if lora else base).eval()
    expected = logits(model, tokenizer)
    torch.testing.assert_close(logits(others, tokenizer), expected)
    assert not torch.allclose(logits(load_base(settings), tokenizer), expected, atol=1e-3)
    merged = loader.from_pretrained(export_model(run, None, merged=True)).eval()
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-4, rtol=1e-4)

    [examples, *_] = local_stream(setting.source, 0)
    scores = score_continuations(open_model(run, None)[0], [e.prompt for e in examples], [e.target for e in examples])
    for example, score in zip(examples, scores.log_prob, strict=True):
        assert score == pytest.approx(by_hand(merged, example), abs=1e-3)
    assert isinstance(answer("Say the number 3 in words.", run, None, 8, 0.0), str)


def test_its_blocks_are_found(setting):
    """What is cut over workers, and compiled, block by block."""
    inner = setting.model()
    found = blocks(inner)
    assert len(found) == (4 if is_encoder_decoder(inner) else 2)
    assert len({type(b) for b in found}) == 1


def bytes_kept(model, examples):
    """For the backward pass, each memory once; and (statistics, gradients) of the step."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = gradient(model, examples, tokens=10_000)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights), result


def test_gradient_checkpointing_changes_the_memory_alone(setting):
    """Dropout included, which is drawn again as it was."""
    [examples, *_] = local_stream(setting.source, 0)
    plain, saving = setting.model().train(), setting.model().train()
    checkpoint_activations(saving)
    (much, (stats, gradients)), (little, (again, others)) = bytes_kept(plain, examples), bytes_kept(saving, examples)
    assert little < 0.7 * much
    assert again.loss == stats.loss
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
