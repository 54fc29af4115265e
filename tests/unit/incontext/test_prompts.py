"""Prompts with a context, and what is dropped if they are too long."""

import pytest

from ialign_ray.errors import DataError
from ialign_ray.incontext.prompts import Context, ContextBlock, fitting, label_line, pair_line, render, word_lines

ASK = "{text}\nGood or bad?"
TWO = [ContextBlock({"text": "far"}, "bad"), ContextBlock({"text": "near {text}"}, "good")]


def test_exemplars_are_the_same_prompt_with_their_answers_and_the_nearest_is_last():
    given = render(Context(exemplars=TWO), {"text": "now"}, ASK, "lines")
    assert given == "far\nGood or bad?\nbad\n\nnear {text}\nGood or bad?\ngood\n\nnow\nGood or bad?"


def test_turns_alternate_and_begin_with_the_lines():
    given = render(Context([ContextBlock.line("L")], [ContextBlock.line("P")], TWO), {"text": "now"}, ASK, "turns")
    assert [turn["role"] for turn in given] == ["user", "assistant"] * 2 + ["user"]
    assert given[0]["content"] == "L\n\nP\n\nfar\nGood or bad?"
    assert given[3]["content"] == "good"


def test_a_table_has_a_line_for_each_exemplar():
    rows = [ContextBlock({"a": "one\ntwo", "b": "three"}, "bad")]
    assert (
        render(Context(exemplars=rows), {"text": "now"}, ASK, "table") == "one two | three | bad\n\nnow\nGood or bad?"
    )


def test_pairs_may_follow_exemplars():
    whole = Context(exemplars=TWO[:1], after=[pair_line("kucing", "cat", "Indonesian", "English")])
    assert (
        render(whole, {"text": "now"}, ASK, "lines").split("\n\n")[1] == '"kucing" (Indonesian) means "cat" (English).'
    )


@pytest.mark.parametrize("form", ["lines", "turns", "table"])
def test_an_empty_context_is_the_question_alone(form):
    given = render(Context(), {"text": "now"}, ASK, form)
    assert (given[0]["content"] if form == "turns" else given) == "now\nGood or bad?"


def tokens(context):
    text = render(context, {"text": "now"}, ASK, "lines")
    return len(text.split())


def test_whole_blocks_are_dropped_the_farthest_and_pairs_first():
    whole = Context([ContextBlock.line("head")], [ContextBlock.line("pair one"), ContextBlock.line("pair two")], TWO)
    assert fitting(whole, tokens, tokens(whole)) == (whole, 0)
    shorter, dropped = fitting(whole, tokens, tokens(whole) - 1)
    assert (dropped, [b.texts["line"] for b in shorter.before], len(shorter.exemplars)) == (1, ["pair two"], 2)
    shorter, dropped = fitting(whole, tokens, tokens(Context(whole.head, (), TWO[1:])))
    assert (dropped, shorter.before, shorter.exemplars) == (3, [], TWO[1:])
    assert shorter.head == whole.head


def test_a_context_of_which_nothing_fits_is_an_error():
    with pytest.raises(DataError, match="no exemplar and no pair fits"):
        fitting(Context(exemplars=TWO), tokens, 3)
    assert fitting(Context([ContextBlock.line("head")]), tokens, 1)[1] == 0  # it has nothing to drop


def test_lines_of_words_and_labels():
    assert word_lines([("kucing", "cat"), ("air", "water")]).texts["line"] == "Words: kucing = cat; air = water"
    line = label_line(["bad", "good"], ["buruk", "baik"], "English", "Indonesian").texts["line"]
    assert line == 'Labels in English and Indonesian: "bad" is "buruk", "good" is "baik".'
