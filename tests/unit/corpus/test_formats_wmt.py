"""Test sets of WMT: documents with several references, and SGML that is no XML."""

import gzip

import pytest

from ialign_ray.config import CorpusConfig, DataSource
from ialign_ray.corpus.readers import read_table
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.errors import DataError

XML = """<?xml version='1.0' encoding='utf-8'?>
<dataset id="newstest"><collection id="general">
<doc origlang="en" id="d1"><src lang="en"><p><seg id="1">One &amp; only.</seg><seg id="2">Two "2".</seg></p></src>
<ref lang="is" translator="A"><p><seg id="1">Einn.</seg><seg id="2">Tveir.</seg></p></ref>
<ref lang="is" translator="B"><p><seg id="2">Tvö.</seg></p></ref>
<hyp system="ONLINE" lang="is"><p><seg id="1">Eitt.</seg><seg id="2">Tvennt.</seg></p></hyp></doc>
<doc origlang="en" id="d2"><src lang="en"><p><seg id="1">Three.</seg></p></src>
<ref lang="is" translator="A"><p><seg id="1">Þrír.</seg></p></ref></doc></collection></dataset>"""
SIMPLE = """<dataset><doc id="d"><src lang="uk"><p><seg id="1">Так.</seg><seg id="2"/></p></src>
<ref lang="cs"><p><seg id="1">Ano.</seg><seg id="2">Ne.</seg></p></ref>
<hyp system="X" lang="cs"><p><seg id="1">Jo.</seg></p></hyp></doc></dataset>"""
SOURCE = """<srcset setid="newstest2014" srclang="any">
<DOC sysid="src" docid=news-1 genre="news" origlang="hi">
<hl>
<seg id=1>AT&T &amp; "R&D" &copy=1 a < b &#8217;</seg>
</hl>
<p>
<seg id="2">दो
लाइन</seg>
</p></DOC>
<doc docid='news-2'><p><seg id="1">तीन &bull; &#0; &lt;seg></seg></p></doc>
</srcset>
"""
REFERENCE = """<refset setid="newstest2014" srclang="any" trglang="en"><doc docid="news-1" sysid="ref">
<hl><seg id="1">One</seg></hl><p><seg id="2">Two</seg></p></doc>
<doc docid="news-2" sysid="ref"><p><seg id="1">Three</seg></p></doc></refset>
"""


def put(folder, name, text):
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(folder / name)


def rows(path, columns, bad=None, **config):
    corpus = CorpusConfig(name="c", path=path, columns=columns, pivots=[next(iter(columns))], id="id", **config)
    bad = [] if bad is None else bad
    made = [r for c in corpus_chunks(corpus, ".", 1) for t in read_rows(corpus, c, bad) for r in t.to_pylist()]
    return [(r["id"], r["line"], *(r[code] for code in columns)) for r in made]


def refused(path, columns, **config):
    with pytest.raises(DataError) as caught:
        rows(path, columns, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz", "a.sgm"])
def test_references_are_read_by_their_translators(tmp_path, name):
    path = put(tmp_path, name, XML)
    assert rows(path, {"eng": "en", "isl": "is:A"}) == [
        ("c:d1:1", 3, "One & only.", "Einn."),
        ("c:d1:2", 3, 'Two "2".', "Tveir."),
        ("c:d2:1", 7, "Three.", "Þrír."),
    ]
    assert [r[3] for r in rows(path, {"eng": "en", "isl": "is:B"})] == [None, "Tvö.", None]
    assert [r[3] for r in rows(path, {"eng": "en", "isl": "is:ONLINE"})] == ["Eitt.", "Tvennt.", None]
    assert "name one of is:A, is:B" in refused(path, {"eng": "en", "isl": "is"})
    assert "no text in 'fo'; it has en, is:A" in refused(path, {"eng": "en", "fao": "fo"})


def test_the_only_reference_needs_no_name_and_an_output_is_none(tmp_path):
    path = put(tmp_path, "a.xml", SIMPLE)
    assert rows(path, {"ukr": "uk", "ces": "cs"}) == [("c:d:1", 1, "Так.", "Ano."), ("c:d:2", 2, None, "Ne.")]


def test_files_of_one_language_each_in_sgml(tmp_path):
    put(tmp_path, "newstest2014-hien-src.hi.sgm", SOURCE)
    put(tmp_path, "newstest2014-hien-ref.en.sgm", REFERENCE)
    expected = [
        ("c:news-1:1", 4, 'AT&T & "R&D" &copy=1 a < b ’', "One"),
        ("c:news-1:2", 7, "दो\nलाइन", "Two"),
        ("c:news-2:1", 10, "तीन &bull; &#0; <seg>", "Three"),
    ]
    assert rows(str(tmp_path / "newstest2014-hien-*.{language}.sgm"), {"hin": "hi", "eng": "en"}) == expected
    read = read_table(DataSource(path=str(tmp_path / "newstest2014-hien-ref.en.sgm")), ".", ["en"])
    assert read["en"].to_pylist() == ["One", "Two", "Three"]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.xml", XML[:400], "is malformed XML"),
        ("a.xml", "<root><a/></root>", "no segment of a test set"),
        ("a.sgm", "", "no segment of a test set"),
        ("a.sgm", SOURCE[:190], "line 8 ends in the middle of a document"),
        ("a.sgm", SOURCE.replace("</seg>\n</hl>", "\n</hl>"), "line 4 begins a segment that is not closed"),
        ("a.sgm", SOURCE.replace("AT", "A\0"), "line 4 contains a NUL"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY e "x">]>' + SIMPLE, "declares the entity"),
    ],
)
def test_what_is_torn_or_hostile_is_one_sentence(tmp_path, name, text, part):
    assert part in refused(put(tmp_path, name, text), {"hin": "any", "eng": "en"})


def test_a_bad_segment_can_be_dropped(tmp_path):
    path, bad = put(tmp_path, "a.sgm", REFERENCE.replace("Two</seg>", "Two")), []
    assert [r[0] for r in rows(path, {"eng": "en", "hin": "text"}, bad, bad_rows="drop")] == [
        "c:news-1:1",
        "c:news-2:1",
    ]
    assert [b.line for b in bad] == [2]
