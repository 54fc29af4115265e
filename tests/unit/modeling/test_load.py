import json
import shutil
from pathlib import Path

import pytest
import torch

from ialign_ray.config import LoraSettings, ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.modeling import patterns
from ialign_ray.modeling.load import (
    add_adapter,
    check_rank,
    load_adapted,
    load_base,
    load_tokenizer,
    lora_targets,
    merge,
    model_shape,
    names_encoder_decoder,
    save_model,
    set_aside_warning,
)


@pytest.fixture
def settings(tiny_model_folder):
    return ModelSettings(id=str(tiny_model_folder))


def adapter(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}


def sentence(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_rank_above_a_layers_side_is_refused(settings):
    model = load_base(settings)
    check_rank(model, LoraSettings(rank=32))
    with pytest.raises(ModelError) as caught:
        add_adapter(model, LoraSettings(rank=33), 0)
    message = sentence(caught)
    assert "model.lora.rank is 33" in message
    assert "layers.0.self_attn.q_proj" in message
    assert "at most 32" in message


def test_an_adapter_names_the_revision_of_its_base(settings, tmp_path):
    for revision in (None, "2f3c0e1"):
        model = load_base(settings.model_copy(update={"revision": revision}))
        save_model(add_adapter(model, LoraSettings(rank=2), 0), tmp_path / str(revision))
        assert json.loads((tmp_path / str(revision) / "adapter_config.json").read_text())["revision"] == revision


def test_settings_of_generation_that_are_set_aside_are_named(settings, tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    (folder / "generation_config.json").unlink(missing_ok=True)
    there = settings.model_copy(update={"id": str(folder)})
    assert set_aside_warning(there) == []
    config = {"eos_token_id": [1, 2], "do_sample": True, "top_k": 20, "suppress_tokens": [3], "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(config))
    (warning,) = set_aside_warning(there)
    assert "sets repetition_penalty, suppress_tokens;" in warning


def test_the_rank_is_checked_without_weights(settings):
    shape = model_shape(settings)
    assert {p.device.type for p in shape.parameters()} == {"meta"}
    with pytest.raises(ModelError, match="at most 32"):
        check_rank(shape, LoraSettings(rank=64))


def test_unknown_targets_name_the_layers_there(settings):
    with pytest.raises(ModelError) as caught:
        add_adapter(load_base(settings), LoraSettings(rank=2, targets=["c_attn"]), 0)
    message = sentence(caught)
    assert "['c_attn']" in message
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert name in message


def test_all_linear_is_every_layer_but_the_head(settings):
    targets = lora_targets(load_base(settings), LoraSettings())
    assert len(targets) == 2 * 7
    assert not any("lm_head" in name for name in targets)
    model = add_adapter(load_base(settings), LoraSettings(rank=2), 0)
    adapted = {n.split("base_model.model.")[1].rpartition(".lora_A")[0] for n in adapter(model) if "lora_A" in n}
    assert adapted == set(targets)


def test_chosen_targets_alone_are_adapted(settings):
    model = add_adapter(load_base(settings), LoraSettings(rank=2, targets=["q_proj"]), 0)
    assert len(adapter(model)) == 4
    assert all("q_proj" in n for n in adapter(model))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(adapter(model))


def test_the_adapters_first_weights_follow_the_seed(settings):
    one, same, other = (adapter(add_adapter(load_base(settings), LoraSettings(rank=2), s)) for s in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


def test_alpha_is_twice_the_rank_when_left_out(settings):
    scales = [
        add_adapter(load_base(settings), lora, 0).peft_config["default"].lora_alpha
        for lora in (LoraSettings(rank=3), LoraSettings(rank=3, alpha=5))
    ]
    assert scales == [6, 5]


def test_a_folder_that_does_not_exist(tmp_path):
    for load in (load_base, load_tokenizer, model_shape):
        with pytest.raises(ModelError) as caught:
            load(ModelSettings(id=str(tmp_path / "none")))
        assert f"model.id '{tmp_path / 'none'}' cannot be loaded" in sentence(caught)


def test_a_hub_id_that_cannot_be_reached():
    with pytest.raises(ModelError, match="model.id 'nobody/nothing' cannot be loaded") as caught:
        load_base(ModelSettings(id="nobody/nothing"))
    sentence(caught)


def test_a_folder_without_weights(tmp_path, tiny_model_folder):
    (tmp_path / "config.json").write_text((tiny_model_folder / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_base(ModelSettings(id=str(tmp_path)))
    sentence(caught)


def test_torn_weights(tmp_path, tiny_model_folder):
    for path in tiny_model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_base(ModelSettings(id=str(tmp_path)))
    sentence(caught)


@pytest.mark.parametrize(
    ("kind", "name"), [("clip", "CLIPConfig"), ("bert", "BertConfig"), ("whisper", "WhisperConfig")]
)
def test_a_model_that_cannot_write(tmp_path, kind, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for load in (model_shape, load_base, names_encoder_decoder):
        with pytest.raises(
            ModelError, match=f"is a {name}, which is neither a causal nor an encoder-decoder"
        ) as caught:
            load(ModelSettings(id=str(tmp_path)))
        sentence(caught)


def test_a_tokenizer_without_padding_pads_with_eos(tmp_path, tiny_tokenizer):
    import copy

    bare = copy.deepcopy(tiny_tokenizer)
    bare.pad_token = None
    bare.save_pretrained(tmp_path)
    assert load_tokenizer(ModelSettings(id=str(tmp_path))).pad_token == "<eos>"


def test_an_adapter_is_loaded_and_merged(settings, tmp_path):
    model = add_adapter(load_base(settings), LoraSettings(rank=2), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.2)
    model.eval().save_pretrained(tmp_path)
    ids = torch.arange(3, 20)[None]
    expected, base = model(ids).logits, load_base(settings)(ids).logits
    assert not torch.allclose(expected, base, atol=1e-3)
    loaded, tokenizer = load_adapted(settings, tmp_path)
    assert torch.allclose(loaded(ids).logits, expected, atol=1e-6)
    assert tokenizer.pad_token_id is not None
    merged = merge(loaded)
    assert not any("lora" in n for n, _ in merged.named_parameters())
    assert torch.allclose(merged(ids).logits, expected, atol=1e-5)
    assert merge(merged) is merged


def test_a_folder_that_holds_no_model(settings, tmp_path):
    with pytest.raises(ModelError, match="holds neither adapter_config.json nor config.json"):
        load_adapted(settings, tmp_path)


class Touch:
    """A pickle that runs code when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture
def saved(settings, tmp_path):
    model = add_adapter(load_base(settings), LoraSettings(rank=2), 0)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r": 10**9}, "rank 1000000000"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank 1000000000"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication"),
        ({"trainable_token_indices": [10**9]}, "row 1000000000"),
        ({"target_modules": r"(\w+\.?)+!"}, "not matched in"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"rank_pattern": 5}, "does not load"),
        ({"rank_pattern": "q"}, "does not load"),
        ({"r": "many"}, "does not load"),
        ({"r": None}, "does not load"),
        ({"trainable_token_indices": "many"}, "does not load"),
        ({"use_dora": True, "r": 0}, "does not load"),
    ],
)
def test_an_adapters_config_cannot_ask_for_the_machine(settings, saved, change, words, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    file = saved / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=words) as caught:
        load_adapted(settings, saved)
    sentence(caught)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "\ud800".encode("unicode_escape").decode(), "[" * 100_000])
def test_an_adapters_config_that_is_no_object_is_one_sentence(settings, saved, text):
    (saved / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be read"):
        load_adapted(settings, saved)


@pytest.mark.parametrize("what", ["adapter", "model"])
def test_a_pickle_that_runs_code_is_one_sentence_and_does_not_run(settings, saved, tiny_model_folder, tmp_path, what):
    ran = tmp_path / "ran"
    if what == "adapter":
        (saved / "adapter_model.safetensors").unlink()
        torch.save({"weight": Touch(ran)}, saved / "adapter_model.bin")
        with pytest.raises(ModelError, match="does not load"):
            load_adapted(settings, saved)
    else:
        folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
        (folder / "model.safetensors").unlink()
        torch.save({"weight": Touch(ran)}, folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match="cannot be loaded"):
            load_base(ModelSettings(id=str(folder)))
    assert not ran.exists()
