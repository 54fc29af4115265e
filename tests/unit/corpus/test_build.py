import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from tiny_corpus import sentences, write_jsonl

from ialign_ray.config import build_experiment, override
from ialign_ray.corpus.build import SHARDS, Built, build_corpus, corpora_folder, cut, latest
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.errors import DataError
from ialign_ray.inspection.report import StepTable
from ialign_ray.storage import file_hash
from ialign_ray.streaming.curate import curate

NOTHING = EvaluationIndex.build([])


@pytest.fixture
def data(tmp_path):
    """One corpus of 300 rows of eng, ind, jav in three files, with dirt whose amount is known."""
    rows = sentences(300)
    for k in range(5):
        rows[10 + k]["jav"] = rows[10 + k]["eng"]  # a copy
    for k in range(4):
        rows[30 + k] |= {"eng": rows[k]["eng"].upper(), "ind": rows[k]["ind"], "jav": rows[k]["jav"]}  # a repetition
    rows[50]["jav"] = "!!!"
    rows[51]["jav"] = None
    rows[52] |= {"ind": None, "jav": "..."}
    rows[60]["ind"] = rows[60]["ind"] + "\u200b\u0007"
    (tmp_path / "data").mkdir()
    for part in range(3):
        write_jsonl(tmp_path / "data" / f"part{part}.jsonl", rows[part * 100 : part * 100 + 100])
    return {
        "name": "tiny",
        "languages": {"l1": ["eng"], "l2": ["ind", "jav"]},
        "model": {"id": "none"},
        "corpora": [
            {"name": "all", "path": "data/*.jsonl", "columns": {"eng": "eng", "ind": "ind", "jav": "jav"}, "id": "sid"}
        ],
        "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
    }


def build(data, index=NOTHING, **settings):
    return build_corpus(build_experiment(data | settings, "test"), index)


def rows_of(built, split="train", corpus="all"):
    return {r["id"]: r for r in built.read(corpus, split).to_pylist()}


def dropped(built, corpus="all"):
    return [r for path in built.drops(corpus) for r in pq.read_table(path).to_pylist()]


def shard_times(data):
    experiment = build_experiment(data, "test")
    return {p: p.stat().st_mtime_ns for p in (corpora_folder(experiment) / SHARDS).glob("*/*/manifest.json")}


MEMORY = """<tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>The bus is full.</seg></tuv><tuv xml:lang="sw"><seg>Basi limejaa.</seg></tuv></tu>
</body></tmx>"""


def of_memory(tmp_path, code, column):
    (tmp_path / "m.tmx").write_text(MEMORY, encoding="utf-8")
    return {
        "name": "memory",
        "languages": {"l1": ["eng"], "l2": [code]},
        "model": {"id": "none"},
        "corpora": [{"name": "m", "path": "m.tmx", "columns": {"eng": "en", code: column}}],
        "replay": {"ratio": 0},
        "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
    }


def test_a_language_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(DataError, match=r"corpus 'm' \(m.tmx\) has no text in kin \(as 'rw'\); the file has en, sw;"):
        build(of_memory(tmp_path, "kin", "rw"))
    write_jsonl(
        tmp_path / "rows.jsonl", [{"lang": "eng", "text": "a bus", "n": 1}, {"lang": "swa", "text": "b", "n": 1}]
    )
    data = of_memory(tmp_path, "swh", "swh")
    long = {"language": "lang", "text": "text", "join": "n", "values": {"eng": "eng", "swh": "swh"}}
    with pytest.raises(DataError, match="no text in swh"):
        build(data | {"corpora": [{"name": "m", "path": "rows.jsonl", "long": long}]})


def test_a_macro_language_is_read_for_its_usual_member_and_told(tmp_path):
    built = build(of_memory(tmp_path, "swh", "swh"))
    (row,) = rows_of(built, corpus="m").values()
    assert row["swh"] == "Basi limejaa."
    assert built.counts["warnings"] == ["corpus 'm': swh is read from sw, not swh"]
    assert build(of_memory(tmp_path, "swh", "sw")).counts["warnings"] == []


def test_every_step_is_counted_and_its_drops_are_kept(data):
    built = build(data)
    counts = built.counts["corpora"]["all"]
    assert counts["rows_in"] == 300
    assert counts["cells_in"] == {"eng": 300, "ind": 299, "jav": 299}
    assert counts["dropped"]["identical"] == {"jav": 5}
    assert counts["dropped"]["empty"] == {"jav": 2}
    assert counts["dropped"]["duplicates"] == {"eng": 4, "ind": 4, "jav": 4}
    assert counts["changed"]["characters"]["ind"] == 1
    # row 52 lost its last pair to `empty`; its English is sound but alone
    assert counts["dropped_rows"]["empty"] == 1
    assert counts["dropped"]["incomplete"] == {"eng": 1}
    rows = rows_of(built)
    assert len(rows) == 300 - 4 - 1
    assert counts["splits"]["train"] == {"rows": 295, "texts": {"eng": 295, "ind": 295, "jav": 288}}
    assert rows["all:60"]["ind"] == sentences(1, first=60)[0]["ind"]
    assert rows["all:10"]["jav"] is None
    assert (rows["all:250"]["file"], rows["all:250"]["line"]) == (3, 51)
    lost = dropped(built)
    assert len(lost) == 5 + 2 + 12 + 1
    copies = [r for r in lost if r["step"] == "identical"]
    assert {(r["id"], r["language"], r["text"] == r["pivot"]) for r in copies} == {
        (f"all:{k}", "jav", True) for k in range(10, 15)
    }
    assert (copies[0]["file"], copies[0]["line"]) == (1, 11)


def test_what_is_kept_and_dropped_adds_up(data):
    counts = build(data).counts["corpora"]["all"]
    for code, read in counts["cells_in"].items():
        lost = sum(cells.get(code, 0) for cells in counts["dropped"].values())
        assert read - lost == counts["splits"]["train"]["texts"][code]
    assert counts["rows_in"] - sum(counts["dropped_rows"].values()) == counts["splits"]["train"]["rows"]


def test_steps_can_be_switched_and_ordered(data):
    off = build(data, cleaning={"steps": []})
    assert set(off.counts["corpora"]["all"]["dropped"]) <= {"incomplete"}
    assert len(rows_of(off)) == 300
    only = build(data, cleaning={"steps": ["duplicates"]})
    assert set(only.counts["corpora"]["all"]["dropped"]) == {"duplicates"}
    assert len(rows_of(only)) == 296
    short = build(data, cleaning={"steps": [{"step": "length", "max_words": 8}, "empty"]})
    assert short.folder != only.folder


def test_a_build_is_the_same_twice_and_is_not_done_twice(data):
    built = build(data)
    before = shard_times(data)
    assert build(data).folder == built.folder
    assert shard_times(data) == before
    files = {p.name: file_hash(p) for p in built.folder.rglob("*.parquet")}
    other = data | {"storage": data["storage"] | {"runs": data["storage"]["runs"] + "-again"}}
    again = build(other)
    assert again.folder.name == built.folder.name
    assert {p.name: file_hash(p) for p in again.folder.rglob("*.parquet")} == files


def test_unchanged_steps_are_not_computed_again(data):
    first = ["normalise", "empty", "duplicates"]
    build(data, cleaning={"steps": [*first, {"step": "length", "max_words": 50}]})
    before = shard_times(data)
    build(data, cleaning={"steps": [*first, {"step": "length", "max_words": 9}]})
    after = shard_times(data)
    assert {p: t for p, t in after.items() if p in before} == before
    assert len(after) - len(before) == 3  # the last stage of three files, and nothing before it


def test_a_changed_file_is_read_again_alone(data, tmp_path):
    steps = {"steps": ["normalise", "empty"]}
    build(data, cleaning=steps)
    before = shard_times(data)
    extra = sentences(1, first=999)
    with (tmp_path / "data" / "part1.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(extra[0]) + "\n")
    built = build(data, cleaning=steps)
    assert len(shard_times(data)) - len(before) == 1
    assert "all:999" in rows_of(built)


def test_the_newest_build_is_found(data):
    experiment = build_experiment(data, "test")
    assert latest(experiment) is None
    first = build(data)
    assert latest(experiment).folder == first.folder
    second = build(data, cleaning={"steps": []})
    assert latest(experiment).folder == second.folder != first.folder


def test_a_torn_build_or_shard_is_made_again(data):
    built = build(data)
    files = {p: file_hash(p) for p in built.folder.rglob("*.parquet")}
    part = next(iter(built.folder.rglob("data/**/*.parquet")))
    part.write_bytes(part.read_bytes()[:-20])
    shard = next(p.parent for p in shard_times(data) if (p.parent / "rows-00000.parquet").exists())
    (shard / "rows-00000.parquet").write_bytes(b"PAR1")
    assert build(data).folder == built.folder
    assert {p: file_hash(p) for p in built.folder.rglob("*.parquet")} == files


def grams(text, n=5):
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}


def leaking(rows, secrets):
    """Ids of rows that equal a secret or hold half of its 5-grams, counted plainly."""
    found = set()
    for row in rows:
        for text in (row["eng"], row["ind"], row["jav"]):
            same = any(grams(text) and grams(text) == grams(s) for s in secrets)
            if same or any(len(grams(s) & grams(text)) >= len(grams(s)) / 2 for s in secrets):
                found.add(f"all:{row['sid']}")
    return found


def test_evaluation_sentences_are_dropped_and_counted(data):
    rows = sentences(300)
    secrets = [rows[100]["jav"].upper(), f"Jarene: {rows[101]['ind']}", rows[102]["eng"] + " And then."]
    expected = leaking(rows, secrets)
    assert {"all:100", "all:101", "all:102"} <= expected
    clean = build(data)
    built = build(data, EvaluationIndex.build(secrets))
    assert rows_of(clean).keys() - rows_of(built).keys() == expected & rows_of(clean).keys()
    lost = built.counts["corpora"]["all"]["dropped_rows"]
    assert lost["leaks"] == 1  # equality; the others hold a part, or are part of more
    assert lost["leaks"] + lost["overlaps"] == len(expected & rows_of(clean).keys())
    assert built.counts["leaked_from"] == {"all": {}}  # an index without names
    named = build(data, EvaluationIndex.build({"flores": secrets[:1], "mood": secrets[1:], "unused": ["Nothing."]}))
    assert rows_of(named).keys() == rows_of(built).keys()
    by_suite = named.counts["leaked_from"]["all"]
    assert by_suite["flores"] >= 1
    assert set(by_suite) == {"flores", "mood"}
    assert sum(by_suite.values()) == lost["leaks"] + lost["overlaps"]
    exact = build(data, EvaluationIndex.build([rows[100]["jav"].upper()], threshold=None))
    assert rows_of(clean).keys() - rows_of(exact).keys() == {"all:100"}


def test_a_holdout_is_its_own_split(data):
    data["corpora"][0]["holdout"] = 0.2
    built = build(data)
    held, train = rows_of(built, "heldout"), rows_of(built)
    assert not held.keys() & train.keys()
    assert held.keys() == {i for i in held.keys() | train.keys() if share_of(i) < 0.2}
    assert 20 < len(held) < 100
    assert built.counts["corpora"]["all"]["splits"]["heldout"]["rows"] == len(held)


def test_other_tools_read_a_built_corpus(data, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    data["corpora"][0]["holdout"] = 0.2
    built = build(data)
    loaded = datasets.load_dataset(str(built.folder), "all", cache_dir=str(tmp_path / "cache"))
    assert {s: len(d) for s, d in loaded.items()} == {
        s: c["rows"] for s, c in built.counts["corpora"]["all"]["splits"].items()
    }
    card = (built.folder / "README.md").read_text(encoding="utf-8")
    assert "| English (eng) | 300 |" in card
    assert "-5" in card


def test_an_id_with_two_texts_is_refused_or_dropped(data, tmp_path):
    write_jsonl(tmp_path / "data" / "part9.jsonl", [sentences(1, first=500)[0] | {"sid": 7}])
    with pytest.raises(DataError, match=r"id '7' has different texts in file 1 line 8 and file 4 line 1"):
        build(data)
    data["corpora"][0]["bad_rows"] = "drop"
    built = build(data)
    assert built.counts["corpora"]["all"]["dropped_rows"]["identity"] == 1
    assert rows_of(built)["all:7"]["eng"] == sentences(1, first=7)[0]["eng"]
    lost = [r for r in dropped(built) if r["step"] == "identity"]
    assert [(r["id"], r["file"], r["language"]) for r in lost] == [("all:7", 4, c) for c in ("eng", "ind", "jav")]


def test_steps_are_cut_where_all_rows_must_be_seen(data):
    steps = build_experiment(
        data | {"cleaning": {"steps": ["normalise", "empty", "duplicates", "ratio", "length"]}}, "x"
    ).cleaning.steps
    stages = [([s.step for s in rows], last.step if last else None) for rows, last in cut(steps)]
    assert stages == [(["normalise", "empty"], "duplicates"), ([], "ratio"), (["length"], None)]


SCRIPT = """
import sys, time
from ialign_ray.config import load_experiment
from ialign_ray.corpus import build
from ialign_ray.corpus.leaks import EvaluationIndex

def slow(items, work):
    for item in items:
        yield work(item)
        print("done", flush=True)
        time.sleep(0.3)

build.build_corpus(load_experiment(sys.argv[1]), EvaluationIndex.build([]), slow)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 5, 10])
def test_a_killed_build_leaves_nothing_half_written_and_goes_on(data, write_yaml, after):
    killed = data | {"storage": data["storage"] | {"runs": data["storage"]["runs"] + "-killed"}}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(write_yaml(killed))], stdout=subprocess.PIPE, text=True
    )
    for _ in range(after):
        assert process.stdout.readline() == "done\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    before = shard_times(killed)
    assert before
    assert latest(build_experiment(killed, "x")) is None
    built = build(killed)
    assert {p: t for p, t in shard_times(killed).items() if p in before} == before
    undisturbed = build(data)
    assert built.folder.name == undisturbed.folder.name
    assert {p.name: file_hash(p) for p in built.folder.rglob("*.parquet")} == {
        p.name: file_hash(p) for p in undisturbed.folder.rglob("*.parquet")
    }


def test_curate_warns_and_indexes_suites_and_protected_sets(data, tmp_path):
    rows = sentences(300)
    write_jsonl(tmp_path / "secret.jsonl", [{"a": rows[200]["eng"], "b": rows[201]["jav"]}])
    secret = {"name": "secret", "path": "secret.jsonl", "columns": ["a", "b"]}
    data["decontamination"] = {"sets": [secret], "threshold": None}
    experiment = build_experiment(data, "test")
    built, _ = curate(experiment)
    assert built.counts["corpora"]["all"]["dropped_rows"]["leaks"] == 2
    off, _ = curate(override(experiment, {"decontamination.exact": False, "decontamination.threshold": None}))
    assert {"all:200", "all:201"} <= rows_of(off).keys()
    assert isinstance(off, Built)


def test_length_ratios_are_learned_of_each_corpus_apart(data, tmp_path):
    """A corpus of literal translations must not make a free one look wrong."""
    rows = sentences(300, first=1000)
    for k, row in enumerate(rows):
        row["jav"] = row["jav"] + " tenan" * (k % 5)
    write_jsonl(tmp_path / "free.jsonl", rows)
    free = data["corpora"][0] | {"name": "free", "path": "free.jsonl"}
    built = build(data, corpora=[*data["corpora"], free], cleaning={"steps": ["ratio"]})
    learned = built.counts["learned"]["ratio"]
    assert learned["all eng-jav"]["deviation"] < learned["free eng-jav"]["deviation"]
    assert built.counts["corpora"]["free"]["dropped"].get("ratio", {}) == {}


def test_rows_of_several_files_name_their_folder(tmp_path):
    codes = ["eng", "jav", "sun", "ind"]
    (tmp_path / "dev").mkdir()
    for code in codes:
        (tmp_path / "dev" / f"{code}.txt").write_text(f"one {code}\ntwo {code}\n", encoding="utf-8")
        for part in "ab":
            lines = "".join(json.dumps({"n": f"{part}{k}", "l": code, "t": f"{code} {part}{k}"}) + "\n" for k in "01")
            (tmp_path / f"{part}-{code}.jsonl").write_text(lines, encoding="utf-8")
    columns = {code: code for code in codes}
    long = {"language": "l", "text": "t", "values": columns, "join": "n"}
    experiment = build_experiment(
        {
            "name": "places",
            "languages": {"l1": ["eng"], "l2": codes[1:]},
            "model": {"id": "none"},
            "corpora": [
                {"name": "many", "path": "dev/{language}.txt", "columns": columns},
                {"name": "two", "path": "dev/{language}.txt", "columns": {"eng": "eng", "jav": "jav"}},
                {"name": "long", "path": "*-*.jsonl", "long": long},
            ],
            "replay": {"ratio": 0},
            "cleaning": {"steps": []},
            "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
        },
        "x",
    )
    counts = build_corpus(experiment, EvaluationIndex.build([])).counts["corpora"]
    shown = {name: StepTable(name, codes, [], [], counts[name]) for name in counts}
    assert shown["many"].place(1, 51) == f"{tmp_path / 'dev'} (4 files):51"
    assert shown["two"].place(1, 2) == f"{tmp_path / 'dev' / 'eng.txt'}, {tmp_path / 'dev' / 'jav.txt'}:2"
    assert shown["long"].place(8, 1) == f"{tmp_path / 'b-sun.jsonl'}:1"
