import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ialign_ray.config.cleaning import Step
from ialign_ray.corpus.cleaning import make_step, near_duplicates
from ialign_ray.corpus.cleaning.identify import alike, labels, predict
from ialign_ray.corpus.cleaning.near_duplicates import banding, minhash, word_bigrams
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.schema import languages, schema

CORPUS_STEPS = ["ratio", "duplicates", "near_duplicates", "language"]


def table(**columns):
    rows = len(next(iter(columns.values())))
    meta = {"id": [f"c:{k}" for k in range(rows)], "file": [0] * rows, "line": [*range(1, rows + 1)]}
    return pa.table({**meta, **columns}, schema=schema(list(columns)))


@dataclass
class Measured:
    """The protocol's `Measures`, in memory; corpora may have different languages."""

    tables: list[pa.Table]
    parts: list[pa.Table]
    fetched: int = 0

    @property
    def rows(self):
        return sum(map(len, self.tables))

    @property
    def columns(self):
        return list(dict.fromkeys(name for part in self.parts for name in part.column_names))

    def column(self, name):
        kind = next(p.schema.field(name).type for p in self.parts if name in p.column_names).to_pandas_dtype()
        lacking = np.nan if np.issubdtype(kind, np.floating) else 0
        return np.concatenate(
            [p[name].to_numpy() if name in p.column_names else np.full(len(p), lacking, kind) for p in self.parts]
        )

    def texts(self, rows):
        assert (np.diff(rows) > 0).all()
        self.fetched += len(rows)
        return pa.concat_tables(self.tables, promote_options="default").take(pa.array(rows))


def decide(step, *tables, pivots=("eng",)):
    made = make_step(TypeAdapter(Step).validate_python({"step": step} if isinstance(step, str) else step))
    scopes = [Scope(languages(t), [p for p in pivots if p in t.column_names]) for t in tables]
    parts = [made.measure(t, scope) for t, scope in zip(tables, scopes)]
    assert [len(part) for part in parts if part.num_columns] == [len(t) for t, p in zip(tables, parts) if p.num_columns]
    decision = made.decide(Measured(list(tables), parts))
    for mask in decision.dropped.values():
        assert mask.dtype == bool
        assert len(mask) == sum(map(len, tables))
    return decision


def dropped_rows(step, *tables):
    return np.flatnonzero(decide(step, *tables).dropped["*"]).tolist()


# --- ratio


def pairs_of_lengths(lengths):
    return table(eng=["e" * a for a, _ in lengths], jav=["j" * b for _, b in lengths])


def test_ratio_learns_what_is_usual_and_drops_the_rest():
    r = random.Random(1)
    usual = [(n, round(1.5 * n * r.lognormvariate(0, 0.1))) for n in (r.randint(30, 90) for _ in range(400))]
    data = pairs_of_lengths([*usual, (50, 5), (10, 300), (40, 60)])
    decision = decide("ratio", data)
    assert np.flatnonzero(decision.dropped["jav"]).tolist() == [400, 401]
    assert list(decision.dropped) == ["jav"]
    learned = decision.learned["eng-jav"]
    assert learned["n"] == 403
    assert learned["median"] == pytest.approx(1.5, rel=0.03)
    assert learned["deviation"] == pytest.approx(0.1, rel=0.25)
    assert learned["low"] < 1.5 / 1.4 < 1.5 * 1.4 < learned["high"]


def test_ratio_half_of_the_pairs_cannot_move_it():
    data = pairs_of_lengths([(50, 50)] * 60 + [(50, 500)] * 50)
    assert decide("ratio", data).dropped["jav"].tolist() == [False] * 60 + [True] * 50


def test_ratio_of_generated_pairs_without_any_spread_drops_no_small_difference():
    data = pairs_of_lengths([(50, 50)] * 200 + [(50, 55), (50, 40), (50, 90)])
    assert np.flatnonzero(decide("ratio", data).dropped["jav"]).tolist() == [202]


def test_ratio_needs_enough_pairs_and_says_so():
    decision = decide({"step": "ratio", "minimum": 4}, table(eng=["a"] * 4, jav=["b", None, "c" * 99, "d"]))
    assert not decision.dropped
    assert decision.learned == {"eng-jav": {"n": 3, "used": False}}
    assert not decision.warnings  # small corpora are usual
    assert not decide("ratio", table(eng=["a"], jav=[None])).learned  # there is nothing to check


def test_ratio_joins_corpora_and_keeps_pairs_apart():
    one = table(**{"eng": ["e" * 50] * 60, "zh-Hans": ["z" * 10] * 60})
    two = table(**{"eng": ["e" * 50] * 60, "jav": ["j" * 50] * 59 + ["j" * 500], "zh-Hans": ["z" * 10] * 59 + [None]})
    decision = decide({"step": "ratio", "minimum": 60}, one, two)
    assert np.flatnonzero(decision.dropped["jav"]).tolist() == [119]
    assert not decision.dropped["zh-Hans"].any()
    assert {pair: learned["n"] for pair, learned in decision.learned.items()} == {"eng-zh-Hans": 119, "eng-jav": 60}


# --- duplicates


def test_duplicates_in_every_language_of_the_row():
    data = table(
        eng=["A cat.", "a  CAT", "A cat.", "A cat.", None, "kucing", None, None, "?", "!"],
        jav=["Kucing", "kucing!", "asu", None, "kucing", "a cat", None, None, None, None],
    )
    decision = decide("duplicates", data)
    assert np.flatnonzero(decision.dropped["*"]).tolist() == [1]
    assert decision.learned == {"groups": 1, "dropped": 1}


def test_duplicates_over_corpora_whatever_the_order_of_their_languages():
    one = table(eng=["x", "y"], jav=["p", "q"])
    two = table(jav=["q", "p", "p"], ind=[None, None, "i"], eng=["y", "y", "x"])
    assert dropped_rows("duplicates", one, two) == [2]


def test_duplicates_of_many_scripts():
    texts = ["ไทย ดี", "ไทยดี", "中文。", "中 文", "مرحبا", "\u200fمرحبا!", "ខ្ញុំ", "ខ្ញុ"]
    assert dropped_rows("duplicates", table(eng=texts)) == [1, 3, 5]


def test_duplicates_counts_groups():
    decision = decide("duplicates", table(eng=list("abcabcaxyz") + ["a"] * 100))
    assert decision.learned == {"groups": 3, "dropped": 104}


# --- near duplicates


def tokens_of(row):
    found = set()
    for code, text in row.items():
        words = (text or "").split()
        found |= {(code, *pair) for pair in pairwise(words)} if len(words) != 1 else {(code, words[0])}
    return found


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


def clusters(rows, threshold):
    """First row of each row's cluster, by comparing all with all."""
    first, sets = list(range(len(rows))), [tokens_of(row) for row in rows]
    for b in range(len(rows)):
        for a in range(b):
            if first[a] != first[b] and jaccard(sets[a], sets[b]) >= threshold:
                low, high = sorted((first[a], first[b]))
                first = [low if f == high else f for f in first]
    return first


def noisy_rows(seed, count=300, length=24):
    """Rows in families of variants: from a copy to hardly alike."""
    r = random.Random(seed)
    vocabulary = [f"w{k}" for k in range(3000)]
    rows = []
    while len(rows) < count:
        words = {code: r.choices(vocabulary, k=length) for code in ("eng", "jav")}
        for _ in range(r.choice([1, 1, 2, 3, 6])):
            changed = {code: list(w) for code, w in words.items()}
            for _ in range(r.choice([0, 1, 2, 4, 8])):
                changed[r.choice(["eng", "jav"])][r.randrange(length)] = r.choice(vocabulary)
            rows.append({code: " ".join(w) for code, w in changed.items()})
    r.shuffle(rows)
    return rows[:count]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_near_duplicates_agree_with_comparing_all_with_all(threshold):
    missed = wrong = expected_drops = 0
    for seed in range(2):
        rows = noisy_rows(seed)
        expected = {k for k, f in enumerate(clusters(rows, threshold)) if f != k}
        data = table(eng=[row["eng"] for row in rows], jav=[row["jav"] for row in rows])
        found = set(dropped_rows({"step": "near_duplicates", "threshold": threshold}, data))
        wrong += len(found - expected)
        missed += len(expected - found)
        expected_drops += len(expected)
    assert wrong == 0  # every pair is verified on its texts
    assert expected_drops > 70
    assert missed / expected_drops < 0.05  # that of pairs just at the threshold, far fewer of the others


def test_near_duplicates_needs_all_languages():
    words = " ".join(f"w{k}" for k in range(30))
    other = " ".join(f"x{k}" for k in range(30))
    data = table(eng=[words, words, words + " end", words, other], jav=[words, other, words, None, words])
    # 0 and 2 are alike; 1 shares half; 3 lacks a side, and 4 has equal texts in other languages
    assert dropped_rows("near_duplicates", data) == [2]


def test_near_duplicates_of_short_texts_and_scripts_without_spaces():
    thai = "ประเทศไทยเป็นประเทศที่ตั้งอยู่ในเอเชียตะวันออกเฉียงใต้มีเมืองหลวงคือกรุงเทพมหานคร"
    khmer = "ប្រទេសកម្ពុជាជាប្រទេសមួយស្ថិតនៅក្នុងតំបន់អាស៊ីអាគ្នេយ៍"
    chinese = "中华人民共和国位于亚洲东部太平洋西岸是世界上人口最多的国家之一"
    texts = ["one", "two", "One!", None, "", "one two", thai, thai + "นะ", khmer, khmer + "។", chinese, chinese + "吗"]
    assert dropped_rows("near_duplicates", table(eng=texts)) == [2, 7, 9, 11]


def test_near_duplicates_keep_the_first_of_a_chain():
    words = [f"w{k}" for k in range(40)]
    chain = [" ".join(words[k : k + 30]) for k in range(4, -1, -1)]  # neighbours .93, the ends .76
    decision = decide("near_duplicates", table(eng=["other text", *chain]))
    assert np.flatnonzero(decision.dropped["*"]).tolist() == [2, 3, 4, 5]
    assert decision.learned["dropped"] == 4


def test_near_duplicates_a_boilerplate_sentence_costs_linear_time(monkeypatch):
    boilerplate = " ".join(f"w{k}" for k in range(20))
    data = table(eng=[f"{boilerplate} {k % 7}" for k in range(3000)] + ["another sentence altogether"])
    made = make_step(TypeAdapter(Step).validate_python({"step": "near_duplicates"}))
    measured = Measured([data], [made.measure(data, Scope(["eng"], ["eng"]))])
    decision = made.decide(measured)
    assert decision.learned["dropped"] == 2999
    assert decision.learned["candidates"] < 2 * 3000
    assert measured.fetched < 2 * 3000
    # templates that share a band and are not alike: no more than eight comparisons a row and band
    keys = np.ones(3000, np.uint64)
    alike_to_none = Measured([data], [pa.table({f"band{k}": keys for k in range(made.bands)})])
    monkeypatch.setattr(near_duplicates, "similarities", lambda measures, pairs: np.zeros(len(pairs)))
    decision = made.decide(alike_to_none)
    assert decision.learned["dropped"] == 0
    assert decision.learned["candidates"] <= 8 * 3000


def test_minhash_estimates_jaccard_without_bias():
    r = random.Random(5)
    errors = []
    for _ in range(60):
        words = [f"v{r.randrange(10**6)}" for _ in range(31)]
        other = [w if r.random() > 0.1 else f"u{k}" for k, w in enumerate(words)]
        tokens, offsets = word_bigrams(pa.array([" ".join(words), " ".join(other)]), "eng")
        one, two = minhash(tokens, offsets, 256).T
        errors.append((one == two).mean() - jaccard(*(tokens_of({"e": " ".join(w)}) for w in (words, other))))
    assert abs(np.mean(errors)) < 0.015
    assert np.std(errors) < 0.05  # sqrt(s (1 - s) / 256) is at most .031


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("slots", [16, 64, 256])
def test_banding_misses_few_pairs_at_the_threshold(threshold, slots):
    bands, width = banding(threshold, slots)
    assert bands * width <= slots
    assert (1 - threshold**width) ** bands <= 0.05
    assert width == slots or (1 - threshold ** (width + 1)) ** (slots // (width + 1)) > 0.05


# --- language

SENTENCES = {
    "eng": "The government said on {} that the new railway line would be opened in the spring.",
    "ind": "Pemerintah mengatakan pada hari {} bahwa jalur kereta api baru akan dibuka tahun depan.",
    "deu": "Die Regierung sagte am {}, dass die neue Bahnstrecke im Frühling eröffnet werde.",
    "arb": "قالت الحكومة يوم {} إن خط السكة الحديد الجديد سيفتتح في الربيع.",
    "zsm": "Kerajaan berkata pada hari {} bahawa laluan kereta api baharu akan dibuka kepada orang awam.",
    "bug": "Naita La Patau {} magguru lontara ri bolana sibawa silessureng macoana.",
}


def spoken(code, count):
    return [SENTENCES[code].format(k) for k in range(count)]


def test_language_drops_what_is_surely_another_language():
    data = table(eng=spoken("eng", 40), ind=[*spoken("ind", 36), *spoken("deu", 2), "ja", None])
    decision = decide("language", data)
    assert np.flatnonzero(decision.dropped["ind"]).tolist() == [36, 37]
    assert not decision.dropped["eng"].any()
    assert not decision.warnings
    assert decision.learned == {
        "eng": {"n": 40, "recognised": 1.0, "used": True},
        "ind": {"n": 38, "recognised": round(36 / 38, 4), "used": True},
    }


def test_language_taken_for_another_member_of_its_macro_language_is_kept():
    malay = [
        "Helikopter menyelamatkan dua belas awak kapal dan satu-satunya cedera yang dialami ialah patah hidung."
    ] * 3
    (taken, *_), (sure, *_) = predict(pa.array(malay))
    assert labels()[taken - 1] == "ms"  # it is Indonesian, of FLORES-200
    data = table(ind=[*spoken("ind", 40), *malay, *spoken("deu", 1)])
    decision = decide({"step": "language", "confidence": min(0.8, float(sure))}, data)
    assert np.flatnonzero(decision.dropped["ind"]).tolist() == [43]


def test_language_the_model_does_not_know_is_left_and_told():
    decision = decide("language", table(eng=spoken("eng", 30), bug=spoken("bug", 30)))
    assert "bug" not in decision.dropped
    (warning,) = decision.warnings
    assert warning.startswith("Language identification is not used on bug: lid.176 does not know it (it says ")
    assert "of 30 texts" in warning


def test_language_column_of_another_language_is_told_not_emptied():
    decision = decide("language", table(eng=spoken("eng", 30), ind=spoken("deu", 30)))
    assert "ind" not in decision.dropped
    assert decision.warnings == [
        "Language identification is not used on ind: lid.176 recognises 0% of its 30 texts (it says de 100%)."
    ]


def test_language_settings_are_heeded():
    data = table(ind=[*spoken("ind", 30), *spoken("deu", 10)])
    assert decide({"step": "language", "recognised": 0.8}, data).warnings
    assert not decide({"step": "language", "confidence": 1.0}, data).dropped["ind"].any()
    assert decide({"step": "language", "minimum_characters": 200}, data).learned["ind"]["n"] == 0


def test_language_of_few_texts_is_not_judged():
    (warning,) = decide("language", table(ind=spoken("ind", 5))).warnings
    assert "only 5 texts" in warning


def test_language_members_of_a_macro_language_are_it():
    for one, two in [
        ("arb", "ar"),
        ("zsm", "ms"),
        ("cmn", "zh"),
        ("zho_Hans", "zh"),
        ("swh", "sw"),
        ("ind_Latn", "id"),
    ]:
        assert alike(one, two)
    for one, two in [("ind", "ms"), ("jav", "su"), ("qci", "en"), ("min", "ms"), ("bjn", "id")]:
        assert not alike(one, two)
    decision = decide("language", table(arb=spoken("arb", 30), zsm=spoken("zsm", 30)))
    assert [decision.learned[code]["used"] for code in ("arb", "zsm")] == [True, True]


def test_language_takes_capitals_and_line_feeds():
    data = table(eng=[text.upper().replace(" ", "\n", 1) for text in spoken("eng", 30)])
    assert decide("language", data).learned["eng"]["recognised"] == 1.0
    assert len(labels()) == 176


# --- all of them


@pytest.mark.parametrize("step", CORPUS_STEPS)
def test_no_rows_and_no_texts(step):
    for data in (table(eng=[], ind=[]), table(eng=[None, None], ind=[None, None])):
        decision = decide(step, data)
        assert not any(mask.any() for mask in decision.dropped.values())
        assert not decision.warnings


CELLS = st.none() | st.lists(st.sampled_from(["a", "b", "C.", "字", "ไท", "مر", "👩"]), max_size=6).map(" ".join)


@pytest.mark.slow
@pytest.mark.parametrize("step", [{"step": "ratio", "minimum": 3, "deviations": 1}, "duplicates", "near_duplicates"])
@settings(max_examples=50)
@given(rows=st.lists(st.tuples(CELLS, CELLS), max_size=20), cuts=st.lists(st.integers(0, 20), max_size=3))
def test_how_the_tables_are_cut_changes_nothing(step, rows, cuts):
    whole = table(eng=["x", *(a for a, _ in rows)], ind=["y", *(b for _, b in rows)]).slice(1)
    bounds = sorted({0, len(rows), *(c for c in cuts if c <= len(rows))})
    pieces = [whole.slice(a, b - a) for a, b in pairwise(bounds)] or [whole]
    one, two, three = decide(step, whole), decide(step, *pieces), decide(step, pa.concat_tables(pieces))
    assert one.learned == two.learned == three.learned
    assert one.dropped.keys() == two.dropped.keys() == three.dropped.keys()
    for code, mask in one.dropped.items():
        assert mask.tolist() == two.dropped[code].tolist() == three.dropped[code].tolist()
