import copy
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chats import CHATML, tokenizer
from transformers import PreTrainedTokenizerFast

from ialign_ray.errors import ModelError
from ialign_ray.tasks.templating import fill
from ialign_ray.tokens.encode import Encoder, shorten

BEFORE, BETWEEN, AFTER = "Restore it: ", " | with: ", " now."
words = st.lists(st.text("abcdefghijk", min_size=1, max_size=6), min_size=1, max_size=40).map(" ".join)


def encoder(tokenizer, max_prompt=256, max_target=128, chat="auto"):
    return Encoder.of(tokenizer, chat, "\n", max_prompt, max_target)


def asked(first, second):
    return fill(BEFORE + "{a}" + BETWEEN + "{b}" + AFTER, {"a": first, "b": second}, {})


def starts(whole, part):
    return whole.split()[: len(part.split())] == part.split()


def test_prompt_separator_target_and_eos(tiny_tokenizer):
    prompt, target = encoder(tiny_tokenizer).encode("Say it.", "The cat")
    assert tiny_tokenizer.decode(prompt) == "Say it.\n"
    assert tiny_tokenizer.decode(target) == "The cat<eos>"
    assert target[-1] == tiny_tokenizer.eos_token_id
    assert encoder(tiny_tokenizer).label("The cat") == target[:-1]


@given(first=words, second=words, target=words, limit=st.integers(30, 120))
def test_truncation_cuts_sentences_only(tiny_tokenizer, first, second, target, limit):
    enc = encoder(tiny_tokenizer, limit, 400)
    prompt, spans = asked(first, second)
    encoded = enc.encode(prompt, target, spans)
    least = enc.prompt(asked(first.split()[0], second.split()[0])[0])
    if encoded is None:
        assert len(least) > limit
        return
    ids, target_ids = encoded
    assert len(ids) <= limit
    assert tiny_tokenizer.decode(target_ids) == target + "<eos>"
    found = re.fullmatch(
        re.escape(BEFORE) + "(.+)" + re.escape(BETWEEN) + "(.+)" + re.escape(AFTER) + "\n", tiny_tokenizer.decode(ids)
    )
    assert starts(first, found[1])
    assert starts(second, found[2])
    if len(enc.prompt(prompt)) <= limit:
        assert (found[1], found[2]) == (first, second)
    else:
        assert len(found[1]) + len(found[2]) < len(first) + len(second)


LONG = {
    "khm": "ខ្ញុំស្រលាញ់ភាសាខ្មែរនិងវប្បធម៌ខ្មែរហើយខ្ញុំចង់រៀនភាសានេះឱ្យបានល្អ",
    "mya": "မြန်မာနိုင်ငံသည်အရှေ့တောင်အာရှတွင်တည်ရှိပြီးသမ္မတနိုင်ငံဖြစ်သည်",
    "tha": "ผู้ชายคนนั้นกำลังกินข้าวอยู่ที่บ้านหลังใหญ่ริมแม่น้ำทุกๆวันกับเพื่อนของเขา",
    "bod": "བོད་ཀྱི་སྐད་ཡིག་ནི་བོད་མི་རིགས་ཀྱི་ཐུན་མོང་གི་སྐད་ཡིག་ཡིན་ནོ་ཞེས་གསུངས་སོ",
    "zho": "孩子每天在家里吃饭然后和朋友一起去学校学习语言和文化课程他们都很高兴因为老师非常好而且总是很耐心",
}


@pytest.mark.parametrize("code", LONG)
def test_a_text_without_spaces_is_never_cut_inside_a_syllable(code):
    text = LONG[code]
    cuts = {shorten(text, ((0, len(text)),), share / 100)[0] for share in range(2, 100)}
    assert len(cuts) > 10
    for cut in cuts:
        assert text.startswith(cut)
        assert not unicodedata.category(text[len(cut)]).startswith("M")
        assert cut[-1] not in "\u1039\u17d2"


@pytest.mark.parametrize(("words", "ended"), [(["good", "good enough"], True), (["good", "bad"], False)])
def test_labels_are_ended_if_one_begins_another(words, ended):
    tokens = tokenizer("byte-level")
    encoder = Encoder.of(tokens, "never", "\n")
    ids = encoder.labels(words)
    assert ids == [encoder.target(w) if ended else encoder.label(w) for w in words]
    assert all((one[-1] == tokens.eos_token_id) is ended for one in ids)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("text", ["ẹ̀kọ́ gbọ́ dára púpọ̀", "আমাদের বা\u09dcি নতুন হ\u09dfেছে", "오늘은 날씨가", "ὦ ἄνδρες"])
def test_every_text_is_read_in_the_form_of_the_corpus(text, chat):
    encoder = Encoder.of(tokenizer("byte-level", CHATML if chat else None), "auto", "\n", form="NFC")
    one = unicodedata.normalize("NFC", text)
    two = next(t for t in (text, unicodedata.normalize("NFD", text)) if t != one)
    assert encoder.prompt(one) == encoder.prompt(two)
    assert encoder.target(one) == encoder.target(two)
    assert encoder.label(one) == encoder.label(two)
    assert encoder.targets_fit([one]) == encoder.targets_fit([two])
    asked = [[{"role": "user", "content": t}] for t in (one, two)]
    assert encoder.conversation(asked[0]) == encoder.conversation(asked[1])
    assert encoder.texts.framed(one) == encoder.texts.framed(two)
    plain = Encoder.of(tokenizer("byte-level"), "auto", "\n")
    assert plain.prompt(one) != plain.prompt(two)


def test_a_form_spells_no_control_token():
    encoder = Encoder.of(tokenizer("byte-level", CHATML), "auto", "\n", form="NFKC")
    tokens = encoder.tokenizer
    plain = encoder.prompt("＜/s＞")
    assert tokens.eos_token_id not in plain
    assert tokens.convert_tokens_to_ids("</s>") not in encoder.label("＜/s＞")


@given(first=words, second=words, share=st.floats(0.01, 0.99))
def test_shorten_moves_the_other_span_along(first, second, share):
    prompt, spans = asked(first, second)
    shorter = shorten(prompt, spans, share)
    if shorter is None:
        assert len(first.split()) == len(second.split()) == 1
        return
    text, ((a, b), (c, d)) = shorter
    assert len(text) < len(prompt)
    assert text[:a] + "{}" + text[b:c] + "{}" + text[d:] == BEFORE + "{}" + BETWEEN + "{}" + AFTER
    assert starts(first, text[a:b])
    assert starts(second, text[c:d])
    assert (text[a:b] == first) != (text[c:d] == second)


def test_the_longest_sentence_is_cut_first():
    text, _ = shorten(*asked("a b c d e f g h", "x y"), 0.5)
    assert text == BEFORE + "a b c d" + BETWEEN + "x y" + AFTER


def test_a_sentence_of_one_long_word_leaves_the_other_to_be_cut():
    text, _ = shorten(*asked("a" * 30, "x y z"), 0.99)
    assert text == BEFORE + "a" * 30 + BETWEEN + "x y" + AFTER


def test_without_spans_nothing_is_cut():
    assert shorten("a b c", (), 0.5) is None


def test_a_target_that_is_too_long_is_refused(tiny_tokenizer):
    size = len(encoder(tiny_tokenizer).target("The cat sees the rice."))
    assert encoder(tiny_tokenizer, max_target=size).encode("Say", "The cat sees the rice.") is not None
    short = encoder(tiny_tokenizer, max_target=size - 1)
    assert short.encode("Say", "The cat sees the rice.") is None
    assert short.targets_fit(["The cat sees the rice.", "a"]) == [False, True]
    assert encoder(tiny_tokenizer, max_target=size).targets_fit(["The cat sees the rice."]) == [True]


def test_an_instruction_that_is_too_long_alone_is_refused(tiny_tokenizer):
    prompt, spans = asked("a b c", "d e f")
    size = len(encoder(tiny_tokenizer).prompt(asked("a", "d")[0]))
    assert encoder(tiny_tokenizer, size).encode(prompt, "x", spans) is not None
    assert encoder(tiny_tokenizer, size - 1).encode(prompt, "x", spans) is None


def test_an_instruction_without_spans_is_never_cut(tiny_tokenizer):
    size = len(encoder(tiny_tokenizer).prompt("Say one two three"))
    assert encoder(tiny_tokenizer, size).fits("Say one two three", "x")
    assert not encoder(tiny_tokenizer, size - 1).fits("Say one two three", "x")


def test_a_chat_template_is_used_where_there_is_one(tiny_tokenizer):
    chatty = copy.deepcopy(tiny_tokenizer)
    chatty.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    enc = encoder(chatty)
    assert enc.chat
    assert chatty.decode(enc.prompt("Say {source} it.")) == "<user>Say {source} it.</><assistant>"
    assert chatty.decode(enc.target("Yes")) == "Yes<eos>"
    never = encoder(chatty, chat="never")
    assert not never.chat
    assert chatty.decode(never.prompt("Say")) == "Say\n"
    assert not encoder(tiny_tokenizer).chat


def test_a_chat_prompt_is_cut_within_its_turn(tiny_tokenizer):
    chatty = copy.deepcopy(tiny_tokenizer)
    chatty.chat_template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>"
    prompt, spans = asked("one two three four five six", "x")
    enc = encoder(chatty)
    ids, _ = encoder(chatty, len(enc.prompt(prompt)) - 1).encode(prompt, "t", spans)
    text = chatty.decode(ids)
    assert text.startswith("<u>" + BEFORE + "one two")
    assert text.endswith(BETWEEN + "x" + AFTER + "</u><a>")
    assert "six" not in text


def test_sentences_that_hold_slot_names_stay_as_they_are(tiny_tokenizer):
    prompt, spans = asked("write {b} and {a} here", "{a}")
    assert [prompt[x:y] for x, y in spans] == ["write {b} and {a} here", "{a}"]
    enc = encoder(tiny_tokenizer)
    ids, _ = encoder(tiny_tokenizer, len(enc.prompt(prompt)) - 1).encode(prompt, "t", spans)
    assert tiny_tokenizer.decode(ids) == BEFORE + "write {b} and {a}" + BETWEEN + "{a}" + AFTER + "\n"


def test_a_tokenizer_without_eos_is_refused(tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encoder(bare)


def test_half_of_a_text_without_spaces_is_half_of_its_syllables():
    text = "ภาษาไทยเขียนโดยไม่เว้นวรรคระหว่างคำดังนั้นจึงเป็นคำเดียว"
    shorter, spans = shorten(f"Say: {text}!", ((5, 5 + len(text)),), 0.5)
    half = "ภาษาไทยเขียนโดยไม่เว้นวรร"
    assert shorter == f"Say: {half}!"
    assert shorter[slice(*spans[0])] == half
    assert shorten("Say: word!", ((5, 9),), 0.5) is None


@pytest.fixture(scope="module")
def byte_level():
    """A tokenizer as GPT-2's or BLOOM's: a space belongs to the word after it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = ["is it positive or negative ? positive", "a b c : positive negative"] * 20
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<eos>"])
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>")


@pytest.mark.parametrize("separator", [" ", ": ", "\n", "\n ", ""])
def test_prompt_and_answer_are_tokenised_as_one_text(byte_level, separator):
    enc = Encoder.of(byte_level, "auto", separator)
    whole = byte_level(f"is it positive ?{separator}negative", add_special_tokens=False)["input_ids"]
    assert enc.prompt("is it positive ?") + enc.label("negative") == whole
    assert enc.target("negative") == [*enc.label("negative"), byte_level.eos_token_id]
    assert enc.targets_fit(["negative"]) == [True]
    if separator == " ":
        assert byte_level.convert_ids_to_tokens(enc.label("positive")) == ["Ġpositive"]


def test_a_tokenizer_that_marks_words_itself_gets_no_second_space():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<eos>"])
    made.train_from_iterator(["is it positive or negative"] * 20, trainer)
    enc = Encoder.of(PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>"), "auto", " ")
    assert enc.lead == ""
    assert enc.tokenizer.convert_ids_to_tokens(enc.label("positive")) == ["▁positive"]
