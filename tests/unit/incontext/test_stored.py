"""A context's folder: what was written is read and found again, and anything else is refused."""

import json
from dataclasses import replace

import pytest

from ialign_ray.config.contexts import ContextConfig
from ialign_ray.errors import DataError
from ialign_ray.incontext.stored import (
    ContextExemplar,
    ContextPair,
    ExemplarPool,
    StoredContext,
    read_context,
    tokenizer_hash,
    write_context,
)
from ialign_ray.storage import MANIFEST, file_hash, read_json, write_json

WORDS = {"bad": {"eng": "bad", "ind": "buruk"}, "good": {"eng": "good", "ind": "baik"}}
TEXTS = {
    "eng": ["the cat sat on a mat", "prices of rice rose", "a dog ran over the field", "heavy rain fell all night"],
    "jav": ["kucing lungguh ing klasa", "rega beras mundhak", "asu mlayu ing sawah", "udan deres sewengi"],
}


def exemplar(k, language):
    return ContextExemplar(f"s{k}", language, {"text": TEXTS[language][k]}, ("bad", "good")[k % 2])


def context(language="own", k=2, pairs=None, **more):
    exemplars = [exemplar(number, code) for code in TEXTS for number in range(4)]
    both = zip(TEXTS["jav"], TEXTS["eng"], strict=True)
    stored = [ContextPair(f"p{n}", *texts, "jav", "eng") for n, texts in enumerate(both)]
    settings = {"name": "icl", "exemplars": {"language": language, "k": k, **more}, "pairs": pairs}
    return StoredContext(
        ContextConfig.model_validate(settings), {"mood": ExemplarPool(("text",), WORDS, exemplars)}, stored
    )


def ids(found):
    return [(e.id, e.language) for e in found.items]


def test_a_folder_is_read_as_it_was_written(tmp_path):
    one = context(pairs={"k": 2})
    first, second = (write_context(one, tmp_path / name) for name in "ab")
    assert first == second
    read = read_context(tmp_path / "a")
    assert read.settings == one.settings
    assert read.pools["mood"].exemplars == one.pools["mood"].exemplars
    assert list(read.pools["mood"].words) == ["bad", "good"]
    assert read.pairs == one.pairs
    for language in ("jav", "eng", None):
        question = {"text": "the price of rice"}
        assert read.exemplars("mood", question, language) == one.exemplars("mood", question, language)


def test_other_labels_give_another_hash(tmp_path):
    one = context()
    changed = [replace(e, label="bad") for e in one.pools["mood"].exemplars]
    other = replace(one, pools={"mood": ExemplarPool(("text",), WORDS, changed)})
    assert write_context(one, tmp_path / "a") != write_context(other, tmp_path / "b")


def test_exemplars_are_in_the_language_of_the_question_the_nearest_last():
    found = context().exemplars("mood", {"text": "rega beras saiki mundhak maneh"}, "jav")
    assert {e.language for e in found.items} == {"jav"}
    assert found.items[-1].id == "s1"
    assert ids(context("eng").exemplars("mood", {"text": "rice prices rose"}, "jav"))[-1] == ("s1", "eng")
    assert len(context(k=5).exemplars("mood", {"text": "beras"}, None).items) == 5


@pytest.mark.parametrize("language", ["own", "any", "eng"])
def test_a_question_finds_neither_itself_nor_its_translation(language):
    one = context(language, k=3)
    for k in range(4):
        for asked in (TEXTS["jav"][k], TEXTS["jav"][k].upper() + " "):
            found = one.exemplars("mood", {"text": asked}, "jav")
            assert f"s{k}" not in [e.id for e in found.items]
    nearly = one.exemplars("mood", {"text": TEXTS["eng"][3] + " ."}, "eng")
    assert ("s3", "eng") not in ids(nearly)


def test_a_pool_of_the_question_alone_is_refused_and_a_small_one_gives_what_it_has():
    pool = ExemplarPool(("text",), WORDS, [exemplar(0, "eng"), exemplar(1, "eng")])
    one = replace(context(), pools={"mood": pool}, _searches={})
    assert ids(one.exemplars("mood", {"text": TEXTS["eng"][0]}, "eng")) == [("s1", "eng")]
    single = replace(one, pools={"mood": replace(pool, exemplars=pool.exemplars[:1])}, _searches={})
    single = replace(single, settings=context(k=1).settings)
    with pytest.raises(DataError):
        single.exemplars("mood", {"text": TEXTS["eng"][0]}, "eng")


def test_k_above_the_pool_and_a_language_without_texts_are_refused():
    with pytest.raises(DataError):
        context(k=9).exemplars("mood", {"text": "rice"}, None)
    with pytest.raises(DataError, match="ban"):
        context().exemplars("mood", {"text": "rice"}, "ban")


def test_pairs_are_found_in_both_directions():
    one = context(pairs={"k": 1})
    back = one.similar_pairs("rice prices today", "eng", "jav").items[0]
    assert (back.source, back.target) == (TEXTS["eng"][1], TEXTS["jav"][1])
    assert (back.source_language, back.target_language) == ("eng", "jav")
    forth = one.similar_pairs("rega beras", "jav", "eng").items[0]
    assert (forth.source, forth.target) == (TEXTS["jav"][1], TEXTS["eng"][1])
    assert one.similar_pairs(TEXTS["jav"][1], "jav", "eng").items[0].id != "p1"
    with pytest.raises(DataError, match="ban"):
        one.similar_pairs("rice", "eng", "ban")
    assert context().similar_pairs("rice").items == ()


def test_exemplars_through_pairs_are_similar_to_the_translation():
    question = {"text": "ana udan deres banget"}
    pairs = [
        ContextPair("p0", "kucing turu", "a cat sleeps", "jav", "eng"),
        ContextPair("p1", "udan", "rain", "jav", "eng"),
    ]
    through = replace(context("eng", k=1, through="pairs"), pairs=pairs)
    assert ids(through.exemplars("mood", question, "jav")) == [("s3", "eng")]


@pytest.mark.parametrize("name", ["context.json", "exemplars.parquet", "pairs.parquet", MANIFEST])
@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_refused_by_name(tmp_path, name, fault):
    write_context(context(), tmp_path / "icl")
    file = tmp_path / "icl" / name
    data = bytearray(file.read_bytes())
    if fault == "gone":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if fault == "flipped" else data[:-9])
    with pytest.raises(DataError, match="hash" if name == MANIFEST else name):  # a wrong manifest blames others
        read_context(tmp_path / "icl")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 9},
        {"settings": {"name": "x"}},
        {"settings": {"name": "x", "new": 1}},
        {"pools": []},
        {"pools": {"mood": {}}},
    ],
)
def test_a_folder_of_another_version_is_refused(tmp_path, changes):
    write_context(context(), tmp_path / "icl")
    settings = tmp_path / "icl" / "context.json"
    settings.write_text(json.dumps(read_json(settings) | changes))
    manifest = read_json(tmp_path / "icl" / MANIFEST)
    manifest["files"]["context.json"] = file_hash(settings)
    write_json(tmp_path / "icl" / MANIFEST, manifest)
    with pytest.raises(DataError, match=r"context\.json"):
        read_context(tmp_path / "icl")


def test_another_tokenizer_is_refused(tiny_tokenizer):
    one = replace(context(), tokenizer=tokenizer_hash(tiny_tokenizer))
    one.check_tokenizer(tiny_tokenizer, "mine/1")
    other = type(tiny_tokenizer)(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<end>")
    with pytest.raises(DataError, match="tokenizer"):
        one.check_tokenizer(other, "mine/1")
