import numpy as np
import pyarrow as pa
import pytest

from ialign_ray.config import CorpusConfig
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.schema import schema
from ialign_ray.corpus.splits import CorpusRows, IdentityMeasurement, IdentitySettings, resolve
from ialign_ray.errors import DataError


class Tables:
    """Measures of tables in memory."""

    def __init__(self, *tables):
        self._tables = tables
        step = IdentityMeasurement(IdentitySettings(shares=True))
        codes = [[c for c in t.column_names if c not in ("id", "file", "line")] for t in tables]
        self._measured = [step.measure(t, Scope(c, c[:1])) for t, c in zip(tables, codes)]
        self.rows = sum(t.num_rows for t in tables)
        self.columns = list(dict.fromkeys(n for m in self._measured for n in m.column_names))

    def column(self, name):
        parts = [
            m[name].to_numpy() if name in m.column_names else np.zeros(t.num_rows, np.uint64)
            for m, t in zip(self._measured, self._tables)
        ]
        return np.concatenate(parts)

    def texts(self, rows):
        return pa.concat_tables(self._tables, promote_options="default").take(pa.array(rows))


def table(name, rows, languages=("eng", "jav")):
    made = [
        {"id": f"{name}:{i}", "file": 1, "line": k + 1, **dict(zip(languages, texts))}
        for k, (i, *texts) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=schema(languages))


def corpus(name, languages=("eng", "jav"), **extra):
    return CorpusConfig(name=name, path="x.csv", columns={c: c for c in languages}, pivots=[languages[0]], **extra)


def parts(*sized):
    made, start = [], 0
    for config, rows in sized:
        made.append(CorpusRows(config, start, start + rows))
        start += rows
    return made


ROWS = [(k, f"This is sentence number {k} here.", f"Iki ukara nomer {k} ing kene.") for k in range(400)]


def test_a_split_follows_the_id_and_its_share():
    measures = Tables(table("a", ROWS))
    held = resolve(measures, parts((corpus("a", id="id", holdout=0.25), 400))).held_out
    assert held.tolist() == [share_of(f"a:{k}") < 0.25 for k in range(400)]
    assert 60 < held.sum() < 140
    assert not resolve(measures, parts((corpus("a", id="id"), 400))).held_out.any()


def test_a_sentence_is_on_one_side_through_every_corpus_language_and_id():
    other = [(f"x{k}", f"THIS is sentence number {k}, here", f"Lain {k}") for k in range(400)]
    third = [(f"y{k}", f"Lain sekali {k}", f"Iki ukara nomer {k} ing kene!") for k in range(400)]
    measures = Tables(table("a", ROWS), table("b", other, ("eng", "ind")), table("c", third, ("ind", "jav")))
    whole = parts(
        (corpus("a", id="id", holdout=0.3), 400),
        (corpus("b", ("eng", "ind"), id="id"), 400),
        (corpus("c", ("ind", "jav"), id="id"), 400),
    )
    held = resolve(measures, whole).held_out.reshape(3, 400)
    assert 0.2 < held[0].mean() < 0.4
    # b shares the English, c the Javanese; neither asked for a holdout of its own
    assert held[1].tolist() == held[0].tolist()
    assert held[2].tolist() == held[0].tolist()


def test_short_texts_do_not_tie_sentences_together():
    rows = [(k, "Yes, that is.", f"Iya kuwi ukara nomer {k}.") for k in range(200)]
    held = resolve(Tables(table("a", rows)), parts((corpus("a", id="id", holdout=0.5), 200))).held_out
    assert held.tolist() == [share_of(f"a:{k}") < 0.5 for k in range(200)]
    rows = [(k, "Yes, that is so.", f"Iya kuwi ukara nomer {k}.") for k in range(200)]
    held = resolve(Tables(table("a", rows)), parts((corpus("a", id="id", holdout=0.5), 200))).held_out
    assert held.all() or not held.any()


def test_the_same_id_with_another_text_is_refused_or_dropped():
    rows = [(7, "A text.", "Teks."), (8, "B text.", "Teks B."), (7, "a TEXT", "Teks liyane."), (7, "A text.", None)]
    measures = Tables(table("a", rows))
    with pytest.raises(
        DataError, match=r"corpus 'a' \(x\.csv\): id '7' .* file 1 line 1 and file 1 line 3; .*bad_rows"
    ):
        resolve(measures, parts((corpus("a", id="sid"), 4)))
    kept = resolve(measures, parts((corpus("a", id="sid", bad_rows="drop"), 4)))
    assert kept.conflicting.tolist() == [False, False, True, False]


def test_one_id_in_two_languages_is_no_conflict():
    rows = [(7, "Teks.", "Tulisan.", None), (7, "Teks.", None, "Seratan.")]
    languages = ("ind", "min", "jav")
    assert not resolve(
        Tables(table("a", rows, languages)), parts((corpus("a", languages, id="sid"), 2))
    ).conflicting.any()


def test_ids_of_two_corpora_never_meet():
    measures = Tables(table("a", [(7, "A text.", "Teks.")]), table("b", [(7, "Other.", "Liyane.")]))
    assert not resolve(measures, parts((corpus("a", id="s"), 1), (corpus("b", id="s"), 1))).conflicting.any()


def test_texts_that_are_ids_may_have_several_translations():
    rows = [("k", "A text.", "Teks."), ("l", "B.", "C."), ("k", "A text.", "Liyane."), ("k", "A text.", "Maneh.")]
    found = resolve(Tables(table("a", rows)), parts((corpus("a"), 4)))
    assert found.ordinal.tolist() == [0, 0, 1, 2]
    assert not found.conflicting.any()
