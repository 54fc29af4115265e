"""TMX, XLIFF and PO: what is read of them, torn and hostile files, and constant memory."""

import gzip
import itertools
import resource

import pytest

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import DataError

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/>\n<body>\n'
)
TAIL = "</body></tmx>\n"


def unit(*texts, tuid=""):
    body = "".join(f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>\n' for code, text in texts)
    mark = f' tuid="{tuid}"' if tuid else ""
    return f"<tu{mark}>\n{body}</tu>\n"


def put(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def read(path, columns=("en", "jv"), size=1 << 20, bad=None, **source):
    bad = [] if bad is None else bad
    chunks = plan_chunks(DataSource(path=path, **source), ".", columns, size)
    return [r for c in chunks for t in read_chunk(c, bad) for r in t.to_pylist()]


def told(path, columns=("en", "jv"), **source):
    with pytest.raises(DataError) as caught:
        read(path, columns, **source)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)
    return str(caught.value)


def test_units_with_many_languages_give_their_columns(tmp_path):
    path = put(
        tmp_path,
        "m.tmx",
        HEAD + unit(("en", "One"), ("jv", "siji"), ("fr", "un"), tuid="x") + unit(("en", "Two")) + TAIL,
    )
    assert read(path, ["en", "jv", "tuid"]) == [
        {"en": "One", "jv": "siji", "tuid": "x", LINE: 5},
        {"en": "Two", "jv": None, "tuid": None, LINE: 10},
    ]
    assert "name the languages" in told(path, [])


def test_languages_match_exactly_then_but_for_case_then_as_the_same_language(tmp_path):
    path = put(
        tmp_path, "m.tmx", HEAD + unit(("EN-US", "color"), ("jv", "a")) + unit(("en-GB", "colour"), ("JV", "b")) + TAIL
    )
    assert [(r["en"], r["jv"]) for r in read(path)] == [("color", "a"), ("colour", "b")]
    assert [(r["eng"], r["jav"]) for r in read(path, ["eng", "jav"])] == [("color", "a"), ("colour", "b")]
    assert [(r["en-us"], r["en-GB"]) for r in read(path, ["en-us", "en-GB"])] == [("color", None), (None, "colour")]


VARIANTS = {
    "the first with text": (("en-US", " "), ("en-GB", "colour"), ("en-NZ", "hue"), "en", "colour"),
    "the tag itself": (("en-US", "color"), ("en", "hue"), ("en-GB", "colour"), "en", "hue"),
    "the region": (("pt-PT", "autocarro"), ("pt", "carro"), ("pt-BR", "ônibus"), "pt-BR", "ônibus"),
    "no region before another": (("pt-PT", "autocarro"), ("pt", "carro"), ("fr", "x"), "pt-BR", "carro"),
    "another region at last": (("pt-PT", "autocarro"), ("fr", "x"), ("pt-AO", "machimbombo"), "pt-BR", "autocarro"),
    "the script": (("sr-Cyrl", "Добар дан."), ("sr", "Здраво."), ("sr-Latn", "Dobar dan."), "sr-Latn", "Dobar dan."),
    "no other script": (("zh-CN", "软件"), ("zh", "软"), ("zh-Hans-SG", "件"), "zh-TW", None),
    "the script of a region": (("zh-CN", "软件"), ("zh-Hant", "軟"), ("zh-HK", "軟件"), "zh-TW", "軟"),
    "the macro-language at last": (("sw", "basi"), ("en", "bus"), ("fr", "bus"), "swh", "basi"),
    "the member before it": (("sw", "gari"), ("swh", "basi"), ("fr", "bus"), "swh", "basi"),
    "the usual member": (("arz", "أتوبيس"), ("arb", "حافلة"), ("fr", "bus"), "ar", "حافلة"),
    "not another member": (("ms", "bas"), ("min", "bus"), ("zsm", "bas"), "id", None),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_the_variant_nearest_to_the_tag_is_kept(tmp_path, case):
    *variants, asked, expected = VARIANTS[case]
    for order in itertools.permutations(variants) if "first" not in case and "region" not in case else [variants]:
        path = put(tmp_path, "m.tmx", HEAD + unit(*order) + TAIL)
        assert read(path, [asked])[0][asked] == expected


def test_codes_are_left_out_and_highlights_kept(tmp_path):
    seg = 'A <bpt i="1">&lt;b>x<sub>no</sub>y</bpt><hi>bold</hi><ept i="1">&lt;/b></ept> &amp; <ph/>end<ut>z</ut>'
    path = put(
        tmp_path, "m.tmx", HEAD + f'<tu><prop>p</prop><tuv lang="en"><note>n</note><seg>{seg}</seg></tuv></tu>' + TAIL
    )
    assert read(path)[0]["en"] == "A bold & end"


@pytest.mark.parametrize("hidden", ["<!-- <tu> <tu> -->", "<![CDATA[<tu>]]>", "<?tool <tu> ?>"])
def test_what_looks_like_a_unit_makes_no_chunk(tmp_path, hidden):
    body = unit(("en", "a"), ("jv", "b")) * 3
    seg = hidden if "CDATA" in hidden else "c"
    path = put(
        tmp_path, "m.tmx", HEAD + body + ("" if seg == hidden else hidden) + unit(("en", seg), ("jv", "d")) + TAIL
    )
    assert len(plan_chunks(DataSource(path=path), ".", ["en"], 1)) == 1
    assert read(path, size=1)[-1]["en"] == ("<tu>" if seg == hidden else "c")
    plain = put(tmp_path, "n.tmx", HEAD + body + TAIL)
    assert len(plan_chunks(DataSource(path=plain), ".", ["en"], 1)) == 4


@pytest.mark.parametrize("name", ["utf-16", "iso-8859-1", "windows-1252"])
def test_declared_encodings_are_read(tmp_path, name):
    text = HEAD.replace("UTF-8", name) + unit(("en", "café"), ("jv", "b")) + TAIL
    assert read(put(tmp_path, "m.tmx", text.encode(name)), size=1)[0]["en"] == "café"
    wrong = put(tmp_path, "n.tmx", text.replace(name, "utf-8").encode(name))
    assert read(wrong, encoding=name)[0]["en"] == "café"


def test_an_encoding_that_expat_lacks_is_told(tmp_path):
    assert "set `encoding`" in told(put(tmp_path, "m.tmx", HEAD.replace("UTF-8", "gb18030") + TAIL))
    assert "set `encoding`" in told(put(tmp_path, "n.tmx", HEAD.replace("UTF-8", "nonsense") + TAIL))


BOMB = '<!DOCTYPE tmx [\n<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>\n<tmx><body>' + unit(("en", "&b;")) + TAIL
EXTERNAL = '<!DOCTYPE tmx [\n<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<tmx><body>' + unit(("en", "&x;")) + TAIL
PARAMETER = (
    '<!DOCTYPE tmx [\n<!ENTITY % p SYSTEM "http://127.0.0.1/x.dtd"> %p;]>\n<tmx><body>' + unit(("en", "a")) + TAIL
)


@pytest.mark.parametrize("policy", ["refuse", "drop"])
@pytest.mark.parametrize("data", [BOMB, EXTERNAL, PARAMETER, BOMB.encode("utf-16")])
@pytest.mark.parametrize("name", ["m.tmx", "m.xliff"])
def test_entities_are_refused(tmp_path, data, policy, name):
    columns = ["source"] if name == "m.xliff" else ["en"]
    assert "line 2 declares the entity" in told(put(tmp_path, name, data), columns, bad_rows=policy)


def test_an_unknown_entity_is_told(tmp_path):
    assert "line 6 uses the entity 'nbsp'" in told(put(tmp_path, "m.tmx", HEAD + unit(("en", "a&nbsp;b")) + TAIL))


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_torn_memory_is_refused_or_kept_up_to_the_tear(tmp_path, size):
    whole = HEAD + unit(("en", "a"), ("jv", "b")) * 3
    path = put(tmp_path, "m.tmx", whole + unit(("en", "c"))[:-12])
    assert "line 18 is malformed XML" in told(path, size=size)
    bad = []
    assert len(read(path, size=size, bad=bad, bad_rows="drop")) == 3
    assert [(b.path, b.line) for b in bad] == [(path, 18)]
    packed = put(tmp_path, "m.tmx.gz", gzip.compress(whole.encode())[:-20])
    assert "ends in the middle of its gzip stream" in told(packed)


def test_an_endless_tag_is_refused(tmp_path):
    path = put(tmp_path, "m.tmx", HEAD + '<tu a="' + "x" * (20 << 20))
    assert "line 5 begins a tag of over 16 MB" in told(path)


@pytest.mark.slow
def test_a_large_memory_is_read_in_constant_memory(tmp_path):
    one = unit(("en", "A sentence of a large memory. " * 4), ("jv", "Ukara saka memori gedhe. " * 4))
    path = tmp_path / "m.tmx"
    with path.open("w") as file:
        file.write(HEAD)
        for _ in range(100):
            file.write(one * ((1 << 20) // len(one)))
        file.write(TAIL)
    rows = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (chunk,) = plan_chunks(DataSource(path=str(path)), ".", ["en", "jv"], 1 << 40)
    for table in read_chunk(chunk, []):
        rows += table.num_rows
    assert rows == 100 * ((1 << 20) // len(one))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10 < 60  # MB


XLIFF1 = """<?xml version="1.0"?>
<xliff version="1.2" xmlns="urn:oasis:names:tc:xliff:document:1.2"><file original="f" source-language="en"><body>
<trans-unit id="1"><source>Press <g id="1">here</g><ph id="2">&lt;br/></ph></source>
<target>Pencet <mrk mtype="x">kene</mrk></target>
<alt-trans><source>no</source><target>ora</target></alt-trans></trans-unit>
<trans-unit id="2"><source>Open</source></trans-unit>
</body></file></xliff>"""
XLIFF2 = """<xliff version="2.0" xmlns="urn:oasis:names:tc:xliff:document:2.0" srcLang="en" trgLang="jv"><file id="f">
<unit id="u"><notes><note>n</note></notes>
<segment><source>One <pc id="1">two</pc></source><target>siji loro</target></segment>
<segment><source>Three</source><target>telu</target></segment></unit></file></xliff>"""


def test_xliff_of_both_versions(tmp_path):
    assert read(put(tmp_path, "a.xliff", XLIFF1), ["source", "target"]) == [
        {"source": "Press here", "target": "Pencet kene", "id": "1", LINE: 3},
    ]
    assert [(r["source"], r["target"], r[LINE]) for r in read(put(tmp_path, "b.xlf", XLIFF2), ["source"])] == [
        ("One two", "siji loro", 3),
        ("Three", "telu", 4),
    ]
    assert "no column 'en'; it has source, target, id" in told(str(tmp_path / "a.xliff"))


PO = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

msgctxt "menu"
msgid "Open \"it\"\n"
"now"
msgstr "Bukak"

#, fuzzy
msgid "Close"
msgstr "?"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d berkas"

msgid "Empty"
msgstr ""

#~ msgid "Old"
#~ msgstr "Lawas"
"""


def test_po_gives_what_is_translated(tmp_path):
    assert read(put(tmp_path, "a.po", PO), ["source", "target"]) == [
        {"source": 'Open "it"\nnow', "target": "Bukak", "id": "menu", LINE: 5},
        {"source": "%d files", "target": "%d berkas", "id": None, LINE: 14},
    ]
    assert "malformed" in told(put(tmp_path, "b.po", 'msgid "a"\nnonsense\n'), ["source"])
    assert "line 2 is not UTF-8" in told(put(tmp_path, "c.po", b'msgid "a"\nmsgstr "\xff"\n'), ["source"])


def test_a_po_file_that_names_a_file_does_not_open_it(tmp_path):
    secret = put(tmp_path, "secret.po", 'msgid "a"\nmsgstr "b"\n')
    with pytest.raises(DataError):
        read(put(tmp_path, "a.po", secret), ["source"])
