from datetime import date
from types import SimpleNamespace

import pytest
from tiny_chats import FAMILIES, LLAMA3, tokenizer, turns

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.tokens.chat import RefusedTurnsError
from ialign_ray.tokens.encode import Encoder

ENDS = {
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "llama2": "</s>",
    "hybrid": "<|im_end|>",
    "always": "<|im_end|>",
}


def encoder(family=None, kind="byte-level", **more):
    return Encoder.of(tokenizer(kind, family), "auto", "\n", **more)


def text(one, ids):
    return one.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def parts(one, said):
    prompt, target, context = one.encode_turns(said)
    learned = [i for place, i in enumerate(target) if place not in set(context)]
    return text(one, prompt), text(one, target), text(one, learned)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_ends_as_the_template_ends_a_turn(family):
    one = encoder(family)
    target = one.target("good")
    assert one.tokenizer.convert_ids_to_tokens(target[-1]) == ENDS[family]
    assert one.ends == {target[-1], one.tokenizer.eos_token_id}


@pytest.mark.parametrize("kind", ["byte-level", "pieces"])
@pytest.mark.parametrize("family", ["chatml", "gemma", "llama3", "llama2"])
def test_prompt_and_target_are_the_whole_text_of_the_template(family, kind):
    one = encoder(family, kind)
    for asked, answer in (("Anak mangan sega", "good bad"), ("บ้านนี้", "สวยมาก"), ("ребёнок", "ест рис")):
        written = one.tokenizer.apply_chat_template(
            turns(asked, answer),
            chat_template=LLAMA3.replace("strftime_now('%d %b %Y')", "'01 Jan 2025'") if family == "llama3" else None,
            tokenize=False,
        )
        whole = one.tokenizer(written, add_special_tokens=False)["input_ids"]
        made = [*one.prompt(asked), *one.target(answer)]
        assert made == whole[: len(made)]


def test_without_a_template_answers_end_with_eos_and_join_the_prompt_as_one_text():
    for kind in ("byte-level", "pieces"):
        for separator in ("\n", "\nAnswer: ", " "):
            one = Encoder.of(tokenizer(kind), "auto", separator)
            made = [*one.prompt("good"), *one.label("bad rice")]
            assert made == one.tokenizer(f"good{separator}bad rice")["input_ids"]
            assert one.target("bad")[-1] == one.tokenizer.eos_token_id


def test_a_causal_prompt_has_no_eos():
    one = Encoder.of(tokenizer("unigram"), "auto", "\n")  # it appends EOS to each text
    assert one.tokenizer.eos_token_id not in one.prompt("good")
    assert one.tokenizer.eos_token_id not in one.plain("good")
    assert Encoder.of(tokenizer("unigram"), "auto", "\n", seq2seq=True).prompt("good")[-1] == 1


def test_thinking_is_closed_before_an_answer():
    said = turns("a", "b")
    assert parts(encoder("hybrid"), said)[0].endswith("assistant\n<think>\n\n</think>\n\n")
    off = encoder("hybrid", arguments={"enable_thinking": False})
    assert parts(off, said)[:2] == parts(encoder("hybrid"), said)[:2]
    assert parts(encoder("always"), said)[:2] == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n</think>\n\n",
        "b<|im_end|>",
    )


def test_the_date_is_that_of_the_settings(monkeypatch):
    import transformers.utils.chat_template_utils as utils

    clock = SimpleNamespace(now=lambda: date(2031, 5, 6))
    monkeypatch.setattr(utils, "datetime", clock)
    assert "Today Date: 01 Jan 2025\n" in text(encoder("llama3"), encoder("llama3").prompt("a"))
    settings = ModelSettings(id="x", chat_date="2026-02-03")
    one = Encoder.of_model(tokenizer("byte-level", "llama3"), settings)
    assert "Today Date: 03 Feb 2026\n" in text(one, one.prompt("a"))
    assert one.settings() != encoder("llama3").settings()
    again = Encoder(one.tokenizer, **one.settings())
    assert (again, again.prompt("a")) == (one, one.prompt("a"))
    old = Encoder(one.tokenizer, chat=True)  # settings of an older run
    assert "06 May 2031" in text(old, old.prompt("a"))


def test_a_date_that_cannot_be_fixed_is_refused():
    one = encoder("{% set f = '%Y' %}{{ strftime_now(f) }}")
    with pytest.raises(ModelError, match="date"):
        one.prompt("a")


@pytest.mark.parametrize("family", ["gemma", "llama2"])
def test_system_text_that_a_template_refuses_begins_the_first_request(family):
    one = encoder(family)
    said = [*turns("a", system="Be kind."), *turns("b", "c")[1:]]
    assert one.conversation(turns("a", system="Be kind.")) == one.prompt("Be kind.\n\na")
    assert "Be kind.\n\na" in parts(one, [*said, {"role": "assistant", "content": "d"}][:1] + turns("a", "b"))[0]


def test_system_text_that_a_template_drops_begins_the_first_request():
    drops = FAMILIES["chatml"].replace("messages %}", "messages if m.role != 'system' %}")
    one = encoder(drops)
    assert one.conversation(turns("a", system="Be kind.")) == one.prompt("Be kind.\n\na")


def test_system_text_has_its_own_turn_where_there_is_one():
    found = text(encoder("chatml"), encoder("chatml").conversation(turns("a", system="Be kind.")))
    assert found.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na<|im_end|>")


@pytest.mark.parametrize("family", ["chatml", "gemma", "llama3", "llama2"])
def test_every_answer_of_a_conversation_is_learned(family):
    said = turns("นี่อะไร", "บ้าน", "lan iki?", "sega", "и это?", "рис", system="Be kind.")
    one = encoder(family)
    prompt, _, learned = parts(one, said)
    assert prompt.endswith(text(one, one.prompt("นี่อะไร"))[-12:])
    assert learned == "".join(text(one, one.target(answer)) for answer in ("บ้าน", "sega", "рис"))
    ids = one.encode_turns(said)
    assert [*ids[0], *ids[1]] == [*one.conversation(said[:-1]), *one.target("рис")]
    last = Encoder.of(one.tokenizer, "auto", "\n", every_answer=False)
    assert parts(last, said) == (
        text(one, one.conversation(said[:-1])),
        text(one, one.target("рис")),
        text(one, one.target("рис")),
    )


def test_spelled_control_tokens_do_not_cut_a_conversation():
    one = encoder("chatml")
    said = turns("a<|im_end|>", "</s>b", "c", "d<|im_start|>")
    assert parts(one, said)[2] == "</s>b<|im_end|>d<|im_start|><|im_end|>"
    prompt, target, _ = one.encode_turns(said)
    assert [*prompt, *target].count(one.end) == 4


def test_an_answer_that_the_model_would_see_otherwise_is_context():
    # the template writes the empty block before the last answer only
    assert parts(encoder("hybrid"), turns("a", "b", "c", "d"))[2] == "d<|im_end|>"


def test_the_plain_form_of_a_conversation():
    one = Encoder.of(tokenizer(), "auto", "\n")
    said = turns("a", "good", "c", "bad", system="Be kind.")
    assert parts(one, said) == ("Be kind.\na\n", "good</s>c\nbad</s>", "good</s>bad</s>")
    assert text(one, one.conversation(said[:-1])) == "Be kind.\na\ngood</s>c\n"
    assert one.conversation(turns("a")) == one.prompt("a")
    both = Encoder.of(tokenizer("unigram"), "auto", "\n", seq2seq=True)
    prompt, target, context = both.encode_turns(said)
    assert (prompt, target, context) == (both.prompt("Be kind.\na\ngood\nc"), both.target("bad"), [])


@pytest.mark.parametrize(
    "said", [[], turns("a", "b")[1:], turns(system="x"), turns("a", "b"), [{"role": "tool", "content": "1"}]]
)
def test_roles_that_have_no_plain_form_are_refused(said):
    with pytest.raises(RefusedTurnsError):
        Encoder.of(tokenizer(), "auto", "\n").conversation(said)


def test_a_template_that_refuses_is_named():
    with pytest.raises(RefusedTurnsError, match=r"take turns.*model\.chat"):
        encoder("gemma").conversation(turns("a", "b")[1:])
    with pytest.raises(RefusedTurnsError, match=r"needs rules.*model\.chat"):
        encoder("{{ raise_exception('needs rules') }}").prompt("a")
    with pytest.raises(ModelError, match=r"model\.chat"):
        encoder("{{ messages[7].content.x }}").prompt("a")


def test_a_conversation_that_is_too_long_does_not_fit():
    said = turns("a", "good", "c", "bad")
    whole = sum(map(len, encoder("chatml").encode_turns(said)[:2]))
    assert encoder("chatml", max_prompt=whole - 9, max_target=9).fits("", "", said)
    assert not encoder("chatml", max_prompt=whole - 10, max_target=9).fits("", "", said)
    assert not encoder("chatml", max_prompt=999, max_target=2).fits("", "", turns("a", "good bad good", "c", "d"))
