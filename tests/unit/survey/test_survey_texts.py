"""Units of a survey, from every layout of a parallel file."""

import json

import pandas as pd
import pytest

from ialign_ray.errors import ConfigError, DataError
from ialign_ray.survey.texts import read_texts, script_of_texts


def wide(tmp_path, **columns):
    path = tmp_path / "wide.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def long(tmp_path, rows, columns=("lang", "text", "article")):
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(dict(zip(columns, row))) + "\n" for row in rows), "utf-8")
    return str(path)


PAIRS = {"eng": ["one", "two", "three", "four", "five"], "jav": ["siji", "loro", "telu", "papat", "lima"]}


def test_columns_spelled_as_the_pivot_is_are_languages(tmp_path):
    found = read_texts(wide(tmp_path, id=list("abcde"), url=list("vwxyz"), topic=["t"] * 5, **PAIRS))
    assert list(found.units) == ["eng", "jav"]
    assert list(found.units["jav"].values()) == PAIRS["jav"]
    assert found.names["jav"] == "Javanese"


def test_id_is_indonesian_only_if_asked_for(tmp_path):
    path = wide(tmp_path, id=["satu", "dua", "tiga", "empat", "lima"], en=PAIRS["eng"], jv=PAIRS["jav"])
    assert list(read_texts(path).units) == ["eng", "jav"]
    assert list(read_texts(path, languages=["ind"]).units) == ["eng", "ind"]


def test_a_language_per_row_is_joined_by_unit_and_lines_are_units_where_they_agree(tmp_path):
    rows = [
        ("eng", "one\ntwo", "1"), ("eng", "three", "2"), ("eng", "four\nfive", "3"),
        ("jav", "siji\nloro", "1"), ("jav", "telu", "2"), ("jav", "papat", "3"), ("jav", "lima", "4"),
    ]  # fmt: skip
    found = read_texts(long(tmp_path, rows))
    assert found.units["jav"] == {"1/1": "siji", "1/2": "loro", "2": "telu"}
    assert found.units["eng"]["3/2"] == "five"


def test_columns_of_another_name_are_named(tmp_path):
    rows = [("eng", "one", 1), ("jav", "siji", 1)]
    path = long(tmp_path, rows, ("tongue", "words", "verse"))
    assert read_texts(path, long=["tongue", "words", "verse"]).units["jav"] == {"1": "siji"}
    with pytest.raises(DataError, match="no column 'line'"):
        read_texts(path, long=["tongue", "words", "line"])
    with pytest.raises(ConfigError, match="--long"):
        read_texts(path, long=["tongue"])


def test_versions_in_two_scripts_are_two_languages_and_the_one_named_by_the_code_is_read(tmp_path):
    columns = ("id", "lang", "text", "article")
    rows = [
        ("001:1", "jav", "lawas", "1"), ("jav:1", "jav", "siji", "1"), ("jav_java:1", "jav", "ꦱꦶꦗꦶ", "1"),
        ("eng:1", "eng", "one", "1"), ("zho:1", "zho", "一个", "1"), ("jpn:1", "jpn", "一つの漢字", "1"),
    ]  # fmt: skip
    found = read_texts(long(tmp_path, rows, columns))
    assert {code: texts["1"] for code, texts in found.units.items() if code.startswith("jav")} == {
        "jav": "siji",
        "jav_Java": "ꦱꦶꦗꦶ",
    }
    assert {"zho", "jpn"} <= set(found.units)
    assert (found.scripts["jpn"], found.scripts["zho"], found.scripts["jav_Java"]) == ("Jpan", "Hani", "Java")


def test_the_same_short_units_are_read_in_all_languages_and_in_the_pivot_all_of_them(tmp_path):
    rows = [("eng", "x" * k, str(k)) for k in range(1, 40)]
    rows += [("jav", f"j{k}", str(k)) for k in range(1, 40)] + [("sun", f"s{k}", str(k)) for k in range(1, 40, 3)]
    found = read_texts(long(tmp_path, rows), longest=30)
    jav, sun, eng = (found.chosen(code, 5) for code in ("jav", "sun", "eng"))
    assert (len(jav), len(sun)) == (5, 5)
    assert set(eng) == {*jav, *sun}
    assert all(int(unit) <= 30 for unit in eng)
    assert set(found.chosen("jav", 9)) > set(jav)
    assert len(found.units["jav"]) == 39


def test_a_pivot_text_that_occurs_twice_is_one_unit(tmp_path):
    found = read_texts(wide(tmp_path, eng=["one", "one", "two"], jav=["siji", "siji", "loro"]))
    assert list(found.units["jav"].values()) == ["siji", "loro"]


def test_one_file_per_language_and_a_translation_memory_need_the_languages(tmp_path):
    for code, texts in PAIRS.items():
        (tmp_path / f"{code}.dev").write_text("\n".join(texts) + "\n", "utf-8")
    assert list(read_texts(str(tmp_path / "{language}.dev"), languages=["jav"]).units["jav"].values()) == PAIRS["jav"]
    memory = tmp_path / "a.tmx"
    side = '<tuv xml:lang="{}"><seg>{}</seg></tuv>'
    pairs = zip(PAIRS["eng"], PAIRS["jav"], strict=True)
    pair = "".join(f"<tu>{side.format('en', one)}{side.format('jv', other)}</tu>" for one, other in pairs)
    memory.write_text(f'<?xml version="1.0"?><tmx version="1.4"><header/><body>{pair}</body></tmx>', "utf-8")
    assert list(read_texts(str(memory), languages=["jav"]).units["jav"].values()) == PAIRS["jav"]
    with pytest.raises(ConfigError, match="--languages"):
        read_texts(str(memory))


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    path = wide(tmp_path, **PAIRS)
    with pytest.raises(DataError, match="pivot 'fra'"):
        read_texts(path, pivot="fra")
    with pytest.raises(ConfigError, match="did you mean jav"):
        read_texts(path, languages=["jva"])
    with pytest.raises(ConfigError, match="did you mean jav"):
        read_texts(path, languages=["javanse"])
    with pytest.raises(DataError, match="but the pivot"):
        read_texts(wide(tmp_path, eng=["one"]))
    few = wide(tmp_path, eng=PAIRS["eng"], jav=["siji", *[None] * 4], sun=PAIRS["jav"])
    assert set(read_texts(few).units) == {"eng", "jav", "sun"}
    with pytest.raises(DataError, match="has 1 units in 'jav'"):
        read_texts(few, languages=["jav"])
    path = wide(tmp_path, **PAIRS)
    with pytest.raises(DataError, match="raise --longest"):
        read_texts(path, longest=2)
    with pytest.raises(DataError, match="two texts"):
        read_texts(long(tmp_path, [("eng", "one", "1"), ("eng", "uno", "1")]))
    with pytest.raises(DataError, match="not exist"):
        read_texts(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(("text", "script"), [("abc, где", "Latn"), ("", ""), ("123 ...", ""), ("漢字かな", "Jpan")])
def test_script_of_texts(text, script):
    assert script_of_texts([text]) == script
