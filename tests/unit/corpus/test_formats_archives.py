"""Zip archives as OPUS and others pack them, their members by name, and archives that are torn or hostile."""

import bz2
import gzip
import json
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.formats import files
from ialign_ray.corpus.readers import plan_chunks, read_chunk
from ialign_ray.errors import DataError

PAIRS = [("One.", "ერთი."), ('"Two"', "ორი\u2028"), ("Three", "სამი")]
EN, KA = ("".join(p[side] + "\n" for p in PAIRS) for side in (0, 1))
OBJECTS = [{"en": a, "ka": b} for a, b in PAIRS]
TMX = "<tmx version='1.4'><body>" + "".join(
    f"<tu><tuv xml:lang='en'><seg>{a}</seg></tuv><tuv xml:lang='ka'><seg>{b}</seg></tuv></tu>" for a, b in PAIRS
) + "</body></tmx>"  # fmt: skip
OPUS = {
    "README": "about",
    "LICENSE": "free",
    "Tatoeba.en-ka.en": EN,
    "Tatoeba.en-ka.ka": KA,
    "Tatoeba.en-ka.xml": "<cesAlign/>",
    "Tatoeba.en-ka.ids": "1\t1\n",
    "__MACOSX/._Tatoeba.en-ka.en": "x",
}


def pack(folder, contents, name="en-ka.txt.zip"):
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, text in contents.items():
            file.writestr(member, text)
    return str(path)


def read(path, columns=("en", "ka"), base=".", size=1 << 20, **source):
    chunks = plan_chunks(DataSource(path=path, **source), base, columns, size)
    return [r for c in chunks for t in read_chunk(c, []) for r in t.to_pylist()]


def pairs(*args, **source):
    return [(r["en"], r["ka"]) for r in read(*args, **source)]


def refused(path, columns=("en", "ka"), **source):
    with pytest.raises(DataError) as caught:
        read(path, columns, **source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(OBJECTS), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "contents",
    [
        OPUS,
        {"d/x.en.gz": gzip.compress(EN.encode()), "d/x.ka.bz2": bz2.compress(KA.encode())},
        {"flores/dev/en.dev": EN, "flores/dev/ka.dev": KA, "flores/README": ""},
        {"en.txt": EN, "ka.txt": KA},
        {"a.tmx": TMX},
        {"a.jsonl": "".join(json.dumps(r) + "\n" for r in OBJECTS)},
        {"a/a.json": json.dumps(OBJECTS)},
        {"a.tsv": "en\tka\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS), "about.txt": ""},
        {"a.parquet": parquet()},
        {"en.jsonl": "".join(json.dumps({"text": a}) + "\n" for a, _ in PAIRS),
         "ka.jsonl": "".join(json.dumps({"text": b}) + "\n" for _, b in PAIRS)},
    ],
    ids=["opus", "packed", "flores", "codes", "tmx", "jsonl", "json", "tsv", "parquet", "by-language"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_an_archive_is_read_like_its_files(tmp_path, contents, size):
    assert pairs(pack(tmp_path, contents), size=size) == PAIRS
    assert pairs(pack(tmp_path, contents, "UPPER.ZIP"), size=size) == PAIRS


def test_a_table_beside_its_description_is_read_in_the_format_named(tmp_path):
    lines = "".join(f"{a}\t{b}\tCC-BY\n" for a, b in PAIRS)
    path = pack(tmp_path, {"_about.txt": "anki", "kat.txt": lines}, "kat-eng.zip")
    assert [(r["1"], r["2"]) for r in read(path, ["1", "2"], format="tsv", header="none")] == PAIRS


def test_members_have_paths_patterns_and_line_numbers(tmp_path):
    two = {f"{n}.en-ka.{code}": text for n in "AB" for code, text in (("en", EN), ("ka", KA))}
    path = pack(tmp_path, two | {f"t/{k}.tsv": f"en\tka\n{k}\t{k}\n" for k in range(3)})
    assert f"several sets of data (A.en-ka, B.en-ka); name one, as in {path}!/A.en-ka" in refused(path)
    assert pairs(f"{path}!/B.en-ka") == PAIRS
    assert pairs("en-ka.txt.zip!/A.en-ka.{language}", base=str(tmp_path)) == PAIRS
    assert pairs("zip://A.en-ka::en-ka.txt.zip", base=str(tmp_path)) == PAIRS
    assert pairs(f"{path}!/t/*.tsv") == [(str(k), str(k)) for k in range(3)]
    assert [r[LINE] for r in read(f"{path}!/t/1.tsv")] == [2]
    pack(tmp_path, OPUS, "x1.zip")
    pack(tmp_path, OPUS, "x2.zip")
    assert pairs(str(tmp_path / "x*.zip")) == PAIRS * 2


def test_an_archive_on_another_file_system(tmp_path):
    with fsspec.open("memory://bucket/a.zip", "wb") as file, open(pack(tmp_path, OPUS), "rb") as packed:  # noqa: PTH123
        file.write(packed.read())
    assert pairs("memory://bucket/a.zip") == PAIRS


def test_what_is_not_there_lists_what_is(tmp_path):
    path = pack(tmp_path, OPUS)
    assert "no file that ends in 'en' or 'kat'" in refused(path, ["en", "kat"])
    assert "Tatoeba.en-ka.ka" in refused(path, ["en", "kat"])
    assert "does not exist; the archive has" in refused(f"{path}!/absent.tsv")
    assert "does not exist" in refused(str(tmp_path / "absent.zip"))
    assert "no file" in refused(pack(tmp_path, {}, "empty.zip"))


def test_a_torn_archive_is_one_sentence(tmp_path):
    path = pack(tmp_path, OPUS)
    with open(path, "rb") as file:  # noqa: PTH123
        whole = file.read()
    at = whole.index(b"Tatoeba.en-ka.en") + 20
    for data in (b"", b"PK", whole[:-30], whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :]):
        (tmp_path / "torn.zip").write_bytes(data)
        assert "is not a whole zip file" in refused(str(tmp_path / "torn.zip"))


def test_encrypted_and_oversized_members_are_refused(tmp_path, monkeypatch):
    path = pack(tmp_path, {"a.tsv": "en\tka\n" + "x\ty\n" * 10_000})
    monkeypatch.setattr(files, "_LARGE", 1000)
    monkeypatch.setattr(files, "_BOMB", 10)
    assert "too many for its size" in refused(path)
    monkeypatch.undo()
    with open(path, "rb") as file:  # noqa: PTH123
        data = bytearray(file.read())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(bytes(data))
    assert "is encrypted" in refused(str(tmp_path / "locked.zip"))


@pytest.mark.parametrize(("ending", "packed"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_prefix_finds_compressed_files(tmp_path, ending, packed):
    (tmp_path / f"f.en-ka.en{ending}").write_bytes(packed(EN.encode()))
    (tmp_path / "f.en-ka.ka").write_text(KA, encoding="utf-8")
    assert pairs(str(tmp_path / "f.en-ka")) == PAIRS
