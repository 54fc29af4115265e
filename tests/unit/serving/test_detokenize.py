from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ialign_ray.serving.engine.detokenize import AnswerText
from ialign_ray.serving.protocol import TokenScore

BYTES = {symbol: i for i, symbol in enumerate(["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}


def byte_tokenizer():
    """One token a byte, so that every other character is split."""
    tokenizer = Tokenizer(models.BPE(BYTES, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


TOKENIZER = byte_tokenizer()


def decode(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def told(ids, stop=(), decode=decode):
    """(pieces, ids told with each) up to the last token or the stop text."""
    text, pieces = AnswerText(decode, stop), []
    for token in ids:
        over = text.add(TokenScore(token, None))
        pieces.append(text.take(last=over))
        if over:
            return pieces
    text.end()
    return [*pieces, text.take(last=True)]


@given(
    st.text("ab<é🙂", max_size=12),
    st.lists(st.text("ab<é🙂", min_size=1, max_size=4), max_size=2),
    st.integers(0, 40),
)
def test_a_whole_answer_is_the_pieces_joined(words, stops, cut):
    """Also where its length cuts a character, or a stop text is only begun."""
    ids = (TOKENIZER(words)["input_ids"] if words else [])[:cut]
    pieces, text = told(ids, stops), AnswerText(decode, stops, whole=True)
    if not any(text.add(TokenScore(token, None)) for token in ids):
        text.end()
    answer, scores = text.take(last=True)
    assert answer == joined(pieces)
    assert scores == tuple(score for _, scores in pieces for score in scores)


def test_a_whole_answer_is_decoded_once():
    asked = []
    text = AnswerText(lambda ids: asked.append(ids) or decode(ids), whole=True)
    ids = TOKENIZER("abcde")["input_ids"]
    assert not any(text.add(TokenScore(token, None)) for token in ids)
    text.end()
    assert (text.take(last=True)[0], asked) == ("abcde", [ids])


def joined(pieces):
    return "".join(text for text, _ in pieces)


@given(st.text(max_size=12))
def test_pieces_are_whole_characters_and_join_to_the_text(words):
    ids = TOKENIZER(words)["input_ids"] if words else []
    pieces = told(ids)
    assert joined(pieces) == words
    assert [score.token for _, scores in pieces for score in scores] == ids
    for text, _ in pieces:
        text.encode()  # no half of anything
        assert "\ufffd" not in text or "\ufffd" in words


@given(st.text("ab<é🙂", max_size=12), st.lists(st.text("ab<é🙂", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_of_a_stop_text_is_told(words, stops):
    pieces = told(TOKENIZER(words)["input_ids"] if words else [], stops)
    # the first to be complete ends the answer, and of several complete at once the one that begins first
    ends = [(words.find(stop) + len(stop), words.find(stop)) for stop in stops if stop in words]
    expected = words if not ends else words[: min(begin for end, begin in ends if end == min(ends)[0])]
    assert joined(pieces) == expected
    assert decode([score.token for _, scores in pieces for score in scores]) == expected
    for at in range(len(pieces)):
        so_far = joined(pieces[: at + 1])
        assert expected.startswith(so_far)


def test_a_stop_text_that_does_not_come_is_told_after_all():
    pieces = told(TOKENIZER("x<|y")["input_ids"], ["<|end|>"])
    assert [text for text, _ in pieces] == ["x", "", "", "<|y", ""]
    assert [len(scores) for _, scores in pieces] == [1, 0, 0, 3, 0]
    assert joined(told(TOKENIZER("x<|en")["input_ids"], ["<|end|>"])) == "x<|en"


def test_a_character_cut_by_the_length_ends_as_decode_says():
    ids = TOKENIZER("aé")["input_ids"][:2]
    assert joined(told(ids)) == decode(ids) == "a\ufffd"


def test_bytes_that_never_make_a_character_are_not_held_for_ever():
    ids = [BYTES["Ń"]] * 30  # byte 0x83 alone is no character
    pieces = told(ids)
    assert joined(pieces) == decode(ids)
    assert len([text for text, _ in pieces[:-1] if text]) > 2


def test_special_tokens_have_no_text():
    ids = [*TOKENIZER("a")["input_ids"], 0, *TOKENIZER("b")["input_ids"]]
    assert joined(told(ids)) == "ab"


def test_decoders_that_put_spaces_between_tokens():
    def words(ids):
        return " ".join(f"w{i}" for i in ids)

    assert [text for text, _ in told([1, 2, 3], decode=words)] == ["w1", " w2", " w3", ""]
