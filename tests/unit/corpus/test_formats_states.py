"""Translators' files: what waits for a translation is left out and counted, in every dialect."""

import pytest

from ialign_ray.config import DataSource, build_experiment
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.chunks import ReadNotes
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.inspection.report import StepTable
from ialign_ray.inspection.terminal import remarks


def unit(number, source, target, marks="", more=""):
    return f'<trans-unit id="{number}"{more}><source>{source}</source><target{marks}>{target}</target></trans-unit>\n'


XLIFF12 = f"""<xliff version="1.2"><file source-language="en" target-language="hy"><body>
{unit(1, "Save", "Պահպանել", ' state="translated"')}{unit(2, "Open", "Բացել")}
{unit(3, "Close", "Close", ' state="new"')}{unit(4, "Print", "Տպել", ' state="needs-translation"')}
{unit(5, "Undo", "Հետարկել", ' state="needs-review-translation"')}{unit(6, "Brand", "Brand", more=' translate="no"')}
{unit(7, "Empty", " ")}{unit(8, "Alike", "Նման", ' state-qualifier="fuzzy-match"')}
{unit(9, "Fine", "Լավ", ' state="final" state-qualifier="fuzzy-match"')}
{unit(10, "Bad", "Վատ", ' state="translated" state-qualifier="rejected-grammar"')}
<group translate="no">{unit(11, "Code", "Կոդ")}{unit(12, "But", "Բայց", more=' translate="yes"')}</group>
<trans-unit id="13"><source>Alone</source></trans-unit></body></file></xliff>"""
XLIFF20 = """<xliff version="2.0" srcLang="en" trgLang="ta"><file id="f"><unit id="a">
<segment id="s1" state="final"><source>One.</source><target>ஒன்று.</target></segment>
<ignorable><source> </source><target> </target></ignorable>
<segment id="s2"><source>Two.</source><target>இரண்டு.</target></segment>
<segment id="s3" state="initial"><source>Three.</source><target>Three.</target></segment>
<segment><source>Four.</source></segment></unit>
<unit id="b" translate="no"><segment><source>x</source><target>ஃ</target></segment></unit>
<unit id="c"><segment state="reviewed"><source>Five</source><target>ஐந்து</target></segment></unit></file></xliff>"""
SDL = """<?xml version="1.0" encoding="utf-8"?>
<xliff xmlns:sdl="http://sdl.com/FileTypes/SdlXliff/1.0" xmlns="urn:oasis:names:tc:xliff:document:1.2" version="1.2"
sdl:version="1.0"><doc-info xmlns="http://sdl.com/FileTypes/SdlXliff/1.0"><rep-defs/></doc-info>
<file original="a.docx" source-language="en-US" target-language="he-IL"><header><reference/></header><body>
<trans-unit id="t0" translate="no"><source>&lt;w:p&gt;</source></trans-unit>
<trans-unit id="t1"><source><g id="1">One. Two. Three.</g> Four.</source>
<seg-source><g id="1"><mrk mtype="seg" mid="1">One.</mrk> <mrk mtype="seg" mid="2">Two<x id="9"/>.</mrk> <mrk
mtype="seg" mid="3">Three.</mrk></g> <mrk mtype="seg" mid="4">Four.</mrk></seg-source>
<target><g id="1"><mrk mtype="seg" mid="1">אחת.</mrk> <mrk mtype="seg" mid="2">שתיים<x id="9"/><mrk
mtype="x-sdl-added">!</mrk></mrk> <mrk mtype="seg" mid="3">שלוש.</mrk></g> <mrk mtype="seg" mid="4"/></target>
<sdl:seg-defs><sdl:seg id="1" conf="ApprovedSignOff" origin="interactive"/><sdl:seg id="2" conf="Translated"/>
<sdl:seg id="3" conf="Draft"/><sdl:seg id="4"/></sdl:seg-defs></trans-unit>
<trans-unit id="t2"><source>Five.</source><seg-source><mrk mtype="seg" mid="5">Five.</mrk></seg-source>
<target><mrk mtype="seg" mid="5">חמש.</mrk></target>
<sdl:seg-defs><sdl:seg id="5" conf="ApprovedTranslation"/></sdl:seg-defs></trans-unit>
<trans-unit id="t3"><source>Six.</source><seg-source><mrk mtype="seg" mid="6">Six.</mrk></seg-source>
<target><mrk mtype="seg" mid="6">שש.</mrk></target><sdl:seg-defs><sdl:seg id="6"/></sdl:seg-defs></trans-unit>
</body></file></xliff>"""
MEMOQ = f"""<xliff version="1.2" xmlns:mq="MQXliff"><file source-language="en" target-language="km"><body>
{unit(1, "One", "មួយ", more=' mq:status="ManuallyConfirmed"')}{unit(2, "Two", "ពីរ", more=' mq:status="NotStarted"')}
{unit(3, "Three", "បី", more=' mq:status="Proofread"')}{unit(4, "Four", "បួន", more=' mq:status="PartiallyEdited"')}
{unit(5, "Five", "ប្រាំ", more=' mq:status="Reviewer1Confirmed"')}{unit(6, "Six", "", more=' mq:status="NotStarted"')}
{unit(7, "Seven", "៧", more=' mq:status="Rejected"')}</body></file></xliff>"""
PO = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Open"
msgstr "खोल्नुहोस्"

#, fuzzy
msgid "Close"
msgstr "बन्द"

#, python-format, fuzzy
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d फाइल"

msgid "one"
msgid_plural "many"
msgstr[0] "एक"
msgstr[1] ""

msgid "Empty"
msgstr ""

#~ msgid "Old"
#~ msgstr "पुरानो"
"""
CASES = {
    "a.xliff": (
        XLIFF12,
        [("1", "Save", "Պահպանել"), ("2", "Open", "Բացել"), ("9", "Fine", "Լավ"), ("12", "But", "Բայց")],
        {"state=new": 1, "state=needs-translation": 1, "state=needs-review-translation": 1, "translate=no": 2,
         "untranslated": 2, "state-qualifier=fuzzy-match": 1, "state-qualifier=rejected-grammar": 1},
    ),
    "a.xlf": (
        XLIFF20,
        [("a/s1", "One.", "ஒன்று."), ("a/s2", "Two.", "இரண்டு."), ("c", "Five", "ஐந்து")],
        {"state=initial": 1, "untranslated": 1, "translate=no": 1},
    ),
    "a.sdlxliff": (
        SDL,
        [("t1/1", "One.", "אחת."), ("t1/2", "Two.", "שתיים!"), ("t2", "Five.", "חמש.")],
        {"translate=no": 1, "conf=Draft": 1, "untranslated": 1, "conf=none": 1},
    ),
    "a.mqxliff": (
        MEMOQ,
        [("1", "One", "មួយ"), ("3", "Three", "បី"), ("5", "Five", "ប្រាំ")],
        {"status=NotStarted": 1, "status=PartiallyEdited": 1, "untranslated": 1, "status=Rejected": 1},
    ),
    "a.po": (PO, [(None, "Open", "खोल्नुहोस्")], {"fuzzy": 2, "untranslated": 2, "obsolete": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_only_translations_are_read(tmp_path, name):
    text, expected, counted = CASES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    notes = ReadNotes()
    chunks = plan_chunks(DataSource(path=name), str(tmp_path), ["source", "target"])
    rows = [r for c in chunks for t in read_chunk(c, [], notes) for r in t.to_pylist()]
    assert [(r["id"], r["source"], r["target"]) for r in rows] == expected
    assert dict(notes.left_out) == counted


@pytest.mark.parametrize("name", CASES)
def test_a_build_counts_what_was_left_out(tmp_path, name):
    text, expected, counted = CASES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    experiment = build_experiment(
        {
            "name": "states",
            "languages": {"l1": ["eng"], "l2": ["khm"]},
            "model": {"id": "none"},
            "corpora": [{"name": "c", "path": name, "columns": {"eng": "source", "khm": "target"}}],
            "replay": {"ratio": 0},
            "cleaning": {"steps": []},
            "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
        },
        "x",
    )
    for _ in range(2):  # also of finished shards
        built = build_corpus(experiment, EvaluationIndex.build([]))
        counts = built.counts["corpora"]["c"]
        assert (counts["rows_in"], counts["left_out"]) == (len(expected), counted)
        card = (built.folder / "README.md").read_text(encoding="utf-8")
        shown = " ".join(remarks(StepTable("c", ["eng", "khm"], [], [], counts)))
        assert all(f"{reason} {rows}" in card for reason, rows in counted.items())
        assert all(f"{rows} {reason}" in shown for reason, rows in counted.items())
