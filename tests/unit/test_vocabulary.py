import dataclasses
import json
import string

import peft
import pytest
import torch
from tiny_corpus import sentences
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ialign_ray.config import LoraSettings, ModelSettings, TrainConfig, VocabularySettings, build_experiment
from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import target_logits
from ialign_ray.modeling.load import add_adapter, load_adapted, load_base, merge, save_model
from ialign_ray.modeling.vocabulary import extend_embeddings, extend_tokenizer, new_pieces, trainable_rows
from ialign_ray.streaming import Source, local_stream
from ialign_ray.tokens.encode import Encoder
from ialign_ray.tokens.fitness import measure
from ialign_ray.training.card import model_card
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.journal import Journal
from ialign_ray.training.loop import Loop, make_optimizer, run_loop
from ialign_ray.training.prepare import prepare, save_data

ROWS = sentences(60)
ENGLISH = [r["eng"] for r in ROWS] + [
    "Translate the following text. Restore it, please!",
    "She ought to thank another farmer about bread; 1945 was said in 'other words'.",
]
NEW = [r[c] for r in ROWS[:40] for c in ("ind", "jav")]
HELD_OUT = {"eng": ["The farmers ought to eat bread and fish!", "Another house: 10 cats, 7 dogs & 1 child."],
            "jav": [r["jav"] for r in ROWS[40:]],
            "odd": ["ꦗꦮ 😀\tkucing\nkucing  omah", "", "kucing<|user|>kucing"]}  # fmt: skip
SETTINGS = VocabularySettings(pieces=30, min_frequency=2)


def byte_level():
    """GPT-2's kind, with two special tokens that are outside the model's own vocabulary, as in Qwen."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "<eos>"],
                                                          initial_alphabet=alphabet, show_progress=False))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", model_max_length=99
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    return tokenizer


def without_words():
    """Gemma's kind: no pre-tokenisation, `▁` for a space, bytes for letters outside the vocabulary."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    # trained with word borders, used without them
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    core.train_from_iterator(ENGLISH, trainers.BpeTrainer(vocab_size=460, special_tokens=special, show_progress=False))
    spec = json.loads(core.to_str()) | {"pre_tokenizer": None}
    spec["added_tokens"] = spec["added_tokens"][:3]
    core = Tokenizer.from_str(json.dumps(spec))
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def unigram():
    """T5's kind, with an end-of-sentence token put behind every text."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    letters = sorted(set(string.printable) - set(string.whitespace))
    core.train_from_iterator(ENGLISH, trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<pad>", "<eos>", "<unk>"], unk_token="<unk>", initial_alphabet=letters,
        show_progress=False,
    ))  # fmt: skip
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    return tokenizer


KINDS = {"byte-level": byte_level, "without-words": without_words, "unigram": unigram}


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request):
    base = KINDS[request.param]()
    return base, extend_tokenizer(base, NEW, SETTINGS)


def parts(base, tokenizer):
    return {i: [t.id for t in base.backend_tokenizer.model.tokenize(p)] for p, i in new_pieces(base, tokenizer).items()}


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_new_ids_follow_the_old_ones_which_stay(pair):
    base, extended = pair
    old, new = base.get_vocab(), extended.tokenizer.get_vocab()
    assert {p: i for p, i in new.items() if p in old} == old
    assert new_pieces(base, extended.tokenizer) == {p: len(base) + k for k, p in enumerate(extended.pieces)}
    assert len(extended.tokenizer) == len(base) + len(extended.pieces)
    assert len(set(extended.pieces)) == SETTINGS.pieces


def test_text_is_cut_as_before_and_then_joined_where_a_new_piece_fits(pair):
    base, extended = pair
    whole = parts(base, extended.tokenizer)
    assert all(len(p) > 1 for p in whole.values())
    joined = {}
    for name, texts in HELD_OUT.items():
        for text in texts:
            new = ids(extended.tokenizer, text)
            assert [i for k in new for i in whole.get(k, [k])] == ids(base, text), text
            joined[name] = joined.get(name, 0) + sum(k in whole for k in new)
    assert joined["jav"] > 40
    assert joined["eng"] <= 2


def test_text_comes_back_as_it_does_from_the_base(pair):
    base, extended = pair
    for name, texts in HELD_OUT.items():
        for text in texts:
            decoded = extended.tokenizer.decode(ids(extended.tokenizer, text))
            assert decoded == base.decode(ids(base, text))
            assert decoded == text or (name == "odd" and base.unk_token)


def test_the_new_languages_need_fewer_tokens(pair):
    base, extended = pair
    before, after = (measure(t, "jav", HELD_OUT["jav"]) for t in (base, extended.tokenizer))
    assert after.fertility < 0.75 * before.fertility
    assert after.round_trip_failures == 0


def test_no_piece_crosses_a_word_or_holds_figures_or_punctuation(pair):
    for piece in pair[1].pieces:
        assert not set(piece[1:]) & set("Ġ▁")
        assert not set(piece) & set("0123456789.,:;!?<>|")


@pytest.mark.parametrize("kind", KINDS)
def test_figures_punctuation_and_bytes_are_never_joined(kind):
    base = KINDS[kind]()
    texts = ["taun 1945, taun 1945: (ꦗꦮ) nalika ... taun 1945!"] * 20
    extended = extend_tokenizer(base, texts, VocabularySettings(pieces=50, min_frequency=2))
    assert any("tau" in p for p in extended.pieces)
    assert not [p for p in extended.pieces if set(p) & set("0123456789.,:!()<>")]
    assert extended.tokenizer.decode(ids(extended.tokenizer, texts[0])) == base.decode(ids(base, texts[0]))


def test_a_saved_folder_loads_as_the_same_tokenizer(pair, tmp_path):
    base, extended = pair
    extended.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(extended.tokenizer) is type(base)
    assert loaded.get_vocab() == extended.tokenizer.get_vocab()
    for tokenizer in (loaded, extended.tokenizer):
        assert tokenizer.special_tokens_map == base.special_tokens_map
        assert tokenizer.chat_template == base.chat_template
        assert tokenizer.model_max_length == base.model_max_length
        assert tokenizer.convert_tokens_to_ids("<|user|>") == base.convert_tokens_to_ids("<|user|>")
    for text in [t for texts in HELD_OUT.values() for t in texts]:
        assert loaded(text)["input_ids"] == extended.tokenizer(text)["input_ids"]
    short = "<|user|>"  # what is put around a text stays too
    assert extended.tokenizer(short)["input_ids"] == base(short)["input_ids"]


def test_the_same_texts_give_the_same_pieces_and_the_base_is_left_alone(pair):
    base, extended = pair
    again = extend_tokenizer(base, iter(NEW), SETTINGS)
    assert again.pieces == extended.pieces
    assert not set(extended.pieces) & set(base.get_vocab())


def test_frequent_pairs_come_first_and_rare_ones_never():
    base = byte_level()
    few = extend_tokenizer(base, NEW, VocabularySettings(pieces=10, min_frequency=2))
    assert few.pieces == extend_tokenizer(base, NEW, SETTINGS).pieces[:10]
    none = extend_tokenizer(base, NEW, VocabularySettings(pieces=10, min_frequency=1000))
    assert none.pieces == ()
    assert none.tokenizer is base
    assert extend_tokenizer(base, [], SETTINGS).pieces == ()
    assert len(extend_tokenizer(base, NEW, VocabularySettings(pieces=5000, min_frequency=2)).pieces) < 500


def test_a_special_token_is_never_spelled_by_pieces():
    """A text that holds `mangan` must not be able to produce the token of that name."""
    base = byte_level()
    base.add_tokens(["Ġmangan"], special_tokens=True)
    extended = extend_tokenizer(base, [" mangan sega"] * 20, VocabularySettings(pieces=50, min_frequency=2))
    assert base.convert_tokens_to_ids("Ġmangan") not in ids(extended.tokenizer, "wong mangan sega")
    assert any("sega" in p for p in extended.pieces)


def test_a_gap_between_ids_is_filled(tmp_path):
    base = byte_level()
    spec = json.loads(base.backend_tokenizer.to_str())
    last = max(spec["model"]["vocab"], key=spec["model"]["vocab"].get)
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "".join(m) != last]
    del spec["model"]["vocab"][last]
    base = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)), eos_token="<eos>")
    top = max(base.get_vocab().values())
    extended = extend_tokenizer(base, NEW, SETTINGS)
    assert new_pieces(base, extended.tokenizer) == {p: top + 1 + k for k, p in enumerate(extended.pieces)}
    assert len(extended.tokenizer) == max(extended.tokenizer.get_vocab().values()) + 1


def test_whole_words_and_wordpieces_are_refused_in_one_sentence():
    for model, kind in ((models.WordLevel({"a": 0}, unk_token="a"), "WordLevel"),
                        (models.WordPiece({"a": 0}, unk_token="a"), "WordPiece"),
                        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "BPE with '</w>'")):  # fmt: skip
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="a")
        with pytest.raises(ModelError, match=f"is {kind}, to which no pieces can be added.*vocabulary: null"):
            extend_tokenizer(tokenizer, NEW, SETTINGS)


# ------------------------------------------------------------------------------------------------ embeddings


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
        self.source = Source(str(folder / "data"), 4, 4)
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
            journal=Journal(self.folder),
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
    record = {"run": "r", "drawn": {"tokens": 1, "by_source": {}}, "ending": {"step": 1, "kept": 1}}
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
