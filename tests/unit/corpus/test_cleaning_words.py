import itertools
import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.cleaning import hashing
from ialign_ray.corpus.cleaning.codepoints import blocks, decode, encode, normalised, row_sums
from ialign_ray.corpus.cleaning.words import ngram_hashes, normalised_words, text_hashes

LATIN = "aAbé\u0301ßİiñ .,-'’!0ﬁ½Ⅱ\u00a0\u200d\u200c\ufe0f\u00ad\uffff"
OTHER = "१٣字ひーไทยกำខ្ញុំمرحبا👩🏽💻가\u1100\u1161\uff76\uff9e"
TEXTS = st.text(alphabet=LATIN + OTHER)


def strings(*texts):
    return pa.array(texts, pa.string())


def words_of(text):
    """The normal form once more, a character at a time."""
    composed = unicodedata.normalize("NFKC", "".join(c for c in text if c not in "'’"))
    kept = "".join(
        c for c in composed.replace("ß", "ss") if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f"
    )
    words, before = [], None
    for c in kept:
        small = c.casefold() if len(c.casefold()) == 1 else c.lower()[0]
        small = str(unicodedata.decimal(small, small))
        name = unicodedata.name(c, "")
        alone = any(s in name for s in ("CJK", "HIRAGANA", "KATAKANA", "THAI", "KHMER"))
        if unicodedata.category(c)[0] not in "LMN":
            before = None
        elif before is None or (unicodedata.category(c)[0] != "M" and (alone or before)):
            words.append(small)
            before = alone
        else:
            words[-1] += small
            before = alone
    return words


def per_text(hashes, offsets):
    return [tuple(hashes[a:b].tolist()) for a, b in itertools.pairwise(offsets)]


@given(st.lists(st.none() | TEXTS, max_size=20), st.integers(0, 5))
def test_encode_is_the_reverse_of_decode_and_nulls_hide_nothing(texts, skip):
    array = strings(*texts)[skip:]
    decoded = decode(array)
    assert encode(decoded).to_pylist() == texts[skip:]
    assert ["".join(map(chr, decoded.points[a:b])) for a, b in zip(decoded.offsets, decoded.offsets[1:])] == [
        t or "" for t in texts[skip:]
    ]


def test_a_null_over_bytes_has_no_characters():
    # arrow allows a null to cover bytes
    full = strings("ab", "cd", "ef")
    masked = pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), *full.buffers()[1:]])
    assert masked.to_pylist() == ["ab", None, "ef"]
    assert decode(masked).offsets.tolist() == [0, 2, 2, 4]
    assert normalised_words(masked)[1].tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_blocks_take_every_kind_of_string(kind):
    column = pa.chunked_array([strings("x", None, "yé").cast(kind), strings().cast(kind)])
    assert [value for block in blocks(column) for value in block.to_pylist()] == ["x", None, "yé"]


def test_blocks_of_long_texts_are_short_and_a_column_of_nulls_is_fine():
    sizes = [len(block) for block in blocks(pa.chunked_array([strings(*["x" * 1_000_000] * 9)]))]
    assert sum(sizes) == 9
    assert max(sizes) <= 5
    assert [block.to_pylist() for block in blocks(pa.nulls(2))] == [[None, None]]


def test_row_sums_with_empty_rows_everywhere():
    offsets = np.array([0, 0, 2, 2, 3, 3])
    assert row_sums(np.array([1, 2, 4]), offsets).tolist() == [0, 3, 0, 4, 0]
    assert row_sums(np.zeros(0, bool), np.array([0, 0])).tolist() == [0]


@pytest.mark.parametrize("form", ["NFC", "NFKC", "NFD", "NFKD"])
@given(texts=st.lists(TEXTS, max_size=8))
def test_normalised_is_pythons_normalisation(form, texts):
    assert normalised(strings(*texts), form).to_pylist() == [unicodedata.normalize(form, t) for t in texts]


@given(st.lists(st.none() | TEXTS, max_size=12))
def test_words_agree_with_a_character_at_a_time(texts):
    hashes, offsets = normalised_words(strings(*texts))
    assert offsets.dtype == np.int64
    assert hashes.dtype == np.uint64
    expected = [words_of(t or "") for t in texts]
    assert np.diff(offsets).tolist() == [len(words) for words in expected]
    names = dict(zip([word for words in expected for word in words], hashes.tolist()))
    assert per_text(hashes, offsets) == [tuple(names[word] for word in words) for words in expected]
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Hello, WORLD!", "hello world"),
        ("ﬁne ①", "fine 1"),
        ("e\u0301te\u0301", "Été"),
        ("可能です。", "可 能 で す"),
        ("ខ្ញុំ", "ខ្ញុំ."),
        ("שָׁלוֹם", "\u200fשָׁלוֹם\u200f"),
        ("ｶﾞ", "ガ"),
        ("ΟΔΟΣ", "οδος"),
        ("İSTANBUL", "istanbul"),
        ("STRAẞE", "straße"),
        ("straße", "strasse"),
        # what keyboards and habits write differently
        ("Oʻzbekiston boʻyicha", "O'zbekiston bo‘yicha"),
        ("п'ять об\u02bcєднань", "пʼять об’єднань"),
        ("צה״ל ג׳ירפה", "צה\"ל ג'ירפה"),
        ("این کتاب یکی از کتاب\u200cهای", "اين كتاب يكي از كتابهاي"),
        ("مدرسة إلى", "مدرسه الي"),
        ("جديـــد", "جَدِيد"),
        ("עִבְרִית", "עברית"),
        ("٢٠٢٠ ۱۲ १२ ១២", "2020 12 12 12"),
        ("București Țara", "Bucureşti Ţara"),
        ("l\u0326 s\u0326", "ļ ş"),
        ("e\u0329ko\u0301\u0329", "ẹkọ́"),
        ("ӕмӕ Ӏ", "æмæ I"),
        ("ёлка", "елка"),
        ("taɣuri ɛli", "taγuri εli"),
        ("hòa thủy HÒA Hòa", "hoà thuỷ HOÀ Hoà"),
        ("ho\u0300a", "hoà"),
        ("ഞാൻ", "ഞാന്\u200d"),
        ("হঠাৎ", "হঠাত্"),
        ("ሀገር ሰላም", "ሐገር ሠላም"),
        ("เเละ", "และ"),
        ("ក្ដី", "ក្តី"),
        ("ײִדיש", "ייִדיש"),
        ("cœur", "coeur"),
        ("ﻣﺮﺣﺒﺎ ﹰ", "مرحبا"),
    ],
)
def test_same_words(one, two):
    hashes, offsets = normalised_words(strings(one, two))
    first, second = per_text(hashes, offsets)
    assert first == second != ()


@pytest.mark.parametrize(
    ("one", "two"),
    [("ice cream", "icecream"), ("ab", "ba"), ("ılık", "ilik"), ("كتب", "كتاب"), ("ดี", "ตี"), ("ង្ដ", "ងត")],
)
def test_different_words(one, two):
    hashes, offsets = normalised_words(strings(one, two))
    first, second = per_text(hashes, offsets)
    assert first != second


def test_text_hashes_are_blind_to_spaces_and_zero_without_words():
    hashes = text_hashes(strings("Ice cream!", "icecream", None, "", "?!", "icecreams"), lanes=2)
    assert hashes[:, 0].tolist() == hashes[:, 1].tolist()
    assert (hashes[:, 2:5] == 0).all()
    assert len({*hashes[:, 0].tolist(), *hashes[:, 5].tolist()}) == 4  # no text, and no lane, like another


def test_ngrams():
    hashes, offsets = normalised_words(strings("a b c d", "b c", None, "c", "c b"))
    bigrams = per_text(*ngram_hashes(hashes, offsets, 2))
    assert [len(b) for b in bigrams] == [3, 1, 0, 0, 1]
    assert bigrams[0][1] == bigrams[1][0] != bigrams[4][0]
    assert [len(b) for b in per_text(*ngram_hashes(hashes, offsets, 5))] == [0] * 5
    assert [len(b) for b in per_text(*ngram_hashes(hashes, offsets, 1))] == [4, 2, 0, 1, 2]


def test_nothing_at_all():
    for column in (strings(), pa.chunked_array([], pa.string()), pa.chunked_array([strings(), strings()])):
        hashes, offsets = normalised_words(column)
        assert (len(hashes), offsets.tolist()) == (0, [0])
        assert text_hashes(column, 2).shape == (2, 0)
    assert [len(part) for part in ngram_hashes(np.zeros(0, np.uint64), np.zeros(1, np.int64), 3)] == [0, 1]


@given(st.lists(st.none() | TEXTS, max_size=30), st.lists(st.integers(0, 30), max_size=4))
def test_how_a_column_is_cut_changes_nothing(texts, cuts):
    whole = strings(*texts)
    bounds = sorted({0, len(texts), *(c for c in cuts if c <= len(texts))})
    pieces = pa.chunked_array([whole[a:b] for a, b in itertools.pairwise(bounds)], pa.string())
    for one, two in zip(normalised_words(whole), normalised_words(pieces)):
        assert one.tolist() == two.tolist()
    assert text_hashes(whole).tolist() == text_hashes(pieces).tolist()


@pytest.mark.slow
def test_hashes_are_the_same_in_every_process():
    # a change of these numbers makes corpora that were built before look new: bump the corpus version then
    code = (
        "import pyarrow as pa; from ialign_ray.corpus.cleaning.words import normalised_words, text_hashes;"
        "a = pa.array(['Halo, dunia 字']); print(normalised_words(a)[0].tolist(), text_hashes(a, 2).ravel().tolist())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    column = strings("Halo, dunia 字")
    here = f"{normalised_words(column)[0].tolist()} {text_hashes(column, 2).ravel().tolist()}\n"
    assert said == {here}


def test_many_words_do_not_collide():
    words = [f"{a}{b}" for a in "abcdefghij" for b in range(20_000)]
    hashes, _ = normalised_words(strings(" ".join(words)))
    assert len(np.unique(hashes)) == len(words)
    assert len(np.unique(hashes >> np.uint64(24))) == len(words)  # so are 40 of the bits


def test_stretches_do_not_depend_on_where_they_stand():
    values = hashing.mix(np.arange(1, 7, dtype=np.uint64))
    twice = np.concatenate([values, values, [np.uint64(0)] * 3, values])
    first, second, third = hashing.stretches(twice, np.array([0, 6, 15]))
    assert first == third
    assert second == first  # zeros behind it do not count
