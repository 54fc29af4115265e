import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ialign_ray.inspection.tokenizer_fit import Fitness, choose, fitness, measure, warnings


def words(vocabulary, **model):
    """A tokenizer of whole words."""
    vocabulary = {"<unk>": 0, **{w: k + 1 for k, w in enumerate(vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **model)


def with_byte_fallback(letters):
    """Llama's way: single letters, and bytes for the rest."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *letters]
    model = models.BPE({p: k for k, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def result(language, fertility, **more):
    numbers = {"texts": 100, "unit": "word", "tokens_per_character": 0.2, "tokens_per_byte": 0.2, "unknown": 0.0,
               "byte_fallback": 0.0, "round_trip_failures": 0, "lengths": (1,) * 100}  # fmt: skip
    return Fitness(language=language, fertility=fertility, **numbers | more)


def test_words_that_are_not_known_are_counted():
    found = measure(words(["kucing", "asu"]), "jav", ["kucing asu", "asu mangan kucing sega"])
    assert (found.texts, found.unit, found.fertility, found.unknown) == (2, "word", 1.0, pytest.approx(2 / 6))
    assert found.round_trip_failures == 1
    assert found.lengths == (2, 4)
    assert found.tokens_per_character == found.tokens_per_byte == pytest.approx(6 / (10 + 22))


def test_bytes_of_letters_outside_the_vocabulary_are_counted():
    found = measure(with_byte_fallback("abc "), "jav", ["abc é"])
    assert found.byte_fallback == pytest.approx(2 / 6)
    assert (found.unknown, found.round_trip_failures) == (0, 0)
    assert found.tokens_per_byte == 1


def test_a_byte_level_tokenizer_knows_everything(tiny_tokenizer):
    found = measure(tiny_tokenizer, "jav", ["Si kucing mangan iwak.", "ꦗꦮ 😀\ttab", "  two  spaces "])
    assert (found.unknown, found.byte_fallback, found.round_trip_failures) == (0, 0, 0)


def test_end_of_sentence_as_unknown_token_is_no_unknown_token(tiny_tokenizer):
    """GPT-2's unk is its EOS, which no text holds."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, unk_token="<eos>")
    assert measure(tokenizer, "jav", ["Si kucing mangan iwak."]).unknown == 0


def test_scripts_without_spaces_are_counted_by_characters(tiny_tokenizer):
    text = "แมวกินปลา ในบ้าน"
    thai, javanese = measure(tiny_tokenizer, "tha", [text]), measure(tiny_tokenizer, "jav", [text])
    tokens = len(tiny_tokenizer(text)["input_ids"])
    assert (thai.unit, thai.fertility) == ("character", tokens / 15)
    assert (javanese.unit, javanese.fertility) == ("word", tokens / 2)
    assert measure(tiny_tokenizer, "zho_Hant", ["貓"]).unit == measure(tiny_tokenizer, "zh", ["猫"]).unit == "character"


def test_lengths_by_nearest_rank_and_the_share_over_a_limit():
    lengths = tuple(range(1, 201))
    found = result("jav", 1, lengths=lengths)
    assert [found.percentile(p) for p in (50, 90, 99, 100)] == [100, 180, 198, 200]
    assert [found.over(n) for n in (0, 150, 199, 200)] == [1, 0.25, 0.005, 0]


def test_a_loss_of_case_fails_the_round_trip_and_spacing_does_not():
    tokenizer = words(["kucing"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert measure(tokenizer, "jav", ["Kucing", "kucing", " kucing  kucing "]).round_trip_failures == 1


def test_a_sample_follows_the_seed_and_empty_texts_do_not_count(tiny_tokenizer):
    lines = [f"{k} {'kucing ' * (k % 17)}" for k in range(500)]
    one, same, other = (fitness(tiny_tokenizer, {"jav": lines}, sample=50, seed=s)["jav"] for s in (0, 0, 1))
    assert one == same != other
    assert one.texts == 50
    assert fitness(tiny_tokenizer, {"jav": ["kucing", "", " "], "sun": []})["jav"].texts == 1
    assert choose(lines, 500, 3) == lines
    assert set(choose(lines, 50, 3)) < set(lines)


def test_batches_change_nothing(tiny_tokenizer):
    lines = [f"kucing {k}" for k in range(600)]
    whole = measure(tiny_tokenizer, "jav", lines)
    assert whole.lengths == tuple(sorted(len(tiny_tokenizer(t)["input_ids"]) for t in lines))


def test_no_texts_are_no_fault(tiny_tokenizer):
    found = fitness(tiny_tokenizer, {"jav": []})
    assert (found["jav"].texts, found["jav"].fertility, found["jav"].percentile(99), found["jav"].over(5)) == (
        0,
        0,
        0,
        0,
    )
    assert warnings(found, {"eng"}) == []


def test_the_summary_is_json():
    summary = result("jav", 1.5).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["length"] == {"50": 1, "90": 1, "99": 1, "max": 1}


def found(*results):
    return warnings({r.language: r for r in results}, {"eng", "deu"})


def test_a_language_with_twice_the_tokens_of_the_best_old_one_is_told_with_the_cure():
    [sentence] = found(result("eng", 1.3), result("deu", 1.9), result("jav", 3.9), result("ind", 2.5))
    assert sentence.startswith("jav: 3.9 tokens per word against 1.3 for eng;")
    assert "model.vocabulary" in sentence


def test_more_than_four_tokens_a_word_are_told_without_a_language_to_compare():
    assert found(result("jav", 4.0)) == []
    [sentence] = found(result("jav", 4.1))
    assert sentence.startswith("jav: 4.1 tokens per word; set model.vocabulary")


def test_characters_are_not_compared_with_words():
    assert found(result("eng", 0.3), result("tha", 0.9, unit="character")) == []
    [sentence] = found(result("eng", 0.3), result("tha", 1.9, unit="character"))
    assert sentence.startswith("tha: 1.9 tokens per character;")


@pytest.mark.parametrize(
    ("more", "part", "below"),
    [
        ({"unknown": 0.012}, "1.2% of its tokens are unknown", {"unknown": 0.005}),
        ({"byte_fallback": 0.07}, "7.0% of its tokens are single bytes", {"byte_fallback": 0.01}),
        ({"round_trip_failures": 2}, "2 of 100 texts come back changed", {"round_trip_failures": 1}),
    ],
)
def test_other_faults(more, part, below):
    [sentence] = found(result("jav", 1, **more))
    assert part in sentence
    assert found(result("jav", 1, **below)) == []
