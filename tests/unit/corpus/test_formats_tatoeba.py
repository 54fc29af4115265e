"""Tatoeba's export: sentences joined by links, whatever table lists them and in whichever direction."""

import bz2

import pytest

from ialign_ray.config import CorpusConfig, DataSource
from ialign_ray.corpus.readers import read_table
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.errors import DataError

SENTENCES = {
    5: ("eng", '"Go!" she said.'),
    2: ("swh", "Nenda!"),
    9: ("swh", '"Nenda zako'),
    7: ("kat", "წადი!"),
    11: ("eng", "Alone."),
    4: ("fra", "Va !"),
    30: ("eng", "Go."),
    12: ("kat", "„წადი“"),
}
LINKS = [(5, 2), (2, 5), (5, 9), (7, 5), (30, 2), (5, 4), (4, 7), (12, 30), (5, 999)]
COLUMNS = {"eng": "eng", "swh": "swh", "kat": "kat"}
EXPECTED = [
    ("c:5-2", 1, '"Go!" she said.', "Nenda!", None),
    ("c:5-7", 1, '"Go!" she said.', None, "წადი!"),
    ("c:5-9", 1, '"Go!" she said.', '"Nenda zako', None),
    ("c:30-2", 7, "Go.", "Nenda!", None),
    ("c:30-12", 7, "Go.", None, "„წადი“"),
]


def put(folder, name, lines):
    data = "".join(line + "\n" for line in lines).encode()
    (folder / name).write_bytes(bz2.compress(data) if name.endswith(".bz2") else data)


@pytest.fixture
def export(tmp_path):
    put(tmp_path, "sentences.csv", [f"{k}\t{code}\t{text}" for k, (code, text) in SENTENCES.items()])
    put(tmp_path, "links.csv", [f"{a}\t{b}" for a, b in LINKS])
    return tmp_path


def rows(folder, bad=None, **config):
    config = {
        "name": "c",
        "format": "tatoeba",
        "path": "sentences.csv",
        "links": "links.csv",
        "columns": COLUMNS,
    } | config
    corpus, bad = CorpusConfig(**config), [] if bad is None else bad
    return [r for c in corpus_chunks(corpus, str(folder), 1) for t in read_rows(corpus, c, bad) for r in t.to_pylist()]


def refused(folder, **config):
    with pytest.raises(DataError) as caught:
        rows(folder, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_links_make_rows(export):
    made = rows(export, id="id")
    assert [(r["id"], r["line"], r["eng"], r["swh"], r["kat"]) for r in made] == EXPECTED
    assert len({r["id"] for r in rows(export)}) == 2  # by the pivot's text: a sentence is one, however often linked
    other = rows(export, columns={"fra": "fra", "eng": "eng"}, pivots=["fra"], id="id")
    assert [(r["id"], r["fra"], r["eng"]) for r in other] == [("c:4-5", "Va !", '"Go!" she said.')]
    suite = DataSource(path="sentences.csv", links="links.csv", format="tatoeba")
    assert read_table(suite, str(export), ["kat", "eng"])["id"].to_pylist() == ["7-5", "12-30"]


def test_tables_of_one_language_each_with_more_columns(export):
    for language in ("eng", "swh", "kat"):
        lines = [f"{k}\t{c}\t{text}\tname\t2020" for k, (c, text) in SENTENCES.items() if c == language]
        put(export, f"{language}_sentences.tsv.bz2", lines)
    put(export, "eng-swh_links.tsv.bz2", ["2\t5", "9\t5", "2\t30"])
    put(export, "eng-kat_links.tsv.bz2", ["5\t7", "30\t12"])
    made = rows(export, path="*_sentences.tsv.bz2", links="eng-*_links.tsv.bz2", id="id")
    assert [(r["id"], r["eng"], r["swh"], r["kat"]) for r in made] == [(e[0], *e[2:]) for e in EXPECTED]


def test_what_does_not_fit_is_one_sentence(export):
    assert "name it in `links`" in refused(export, links=None)
    assert "no sentence in 'xho'; it has eng, fra, kat, swh" in refused(export, columns={"eng": "eng", "xho": "xho"})
    assert "does not exist" in refused(export, links="absent.csv")
    put(export, "links.csv", ["a\tb"])
    assert "is no table of Tatoeba" in refused(export)
    put(export, "links.csv", ["1", "2"])
    assert "has no column 2" in refused(export)
    put(export, "links.csv", ["5\t2", "5"])
    assert "line 2 is malformed" in refused(export)
    bad = []
    assert len(rows(export, bad_rows="drop", bad=bad)) == 1
    assert [b.line for b in bad] == [2]
    put(export, "again.csv", ["5\teng\tGo!"])
    assert "has sentence 5 twice" in refused(export, path="[sa]*n*.csv")
