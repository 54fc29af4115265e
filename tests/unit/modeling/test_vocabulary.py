import json
import string

import pytest
from tiny_corpus import sentences
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ialign_ray.config import VocabularySettings
from ialign_ray.errors import ModelError
from ialign_ray.inspection.tokenizer_fit import measure
from ialign_ray.modeling.vocabulary import extend_tokenizer, new_pieces

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
