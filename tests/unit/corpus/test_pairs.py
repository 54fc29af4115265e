import io
import json

import pytest
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.corpus.identity import share_of, text_key
from ialign_ray.corpus.pairs import drop_long, load_parallel
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.streaming.curate import curate
from ialign_ray.streaming.examples import encode_drawn
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.prepare import prepare


def rewrite(tmp_path, name, change):
    path = tmp_path / name
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return rows


@pytest.fixture
def only_second(experiment_data):
    experiment_data["corpora"] = [experiment_data["corpora"][1]]
    return experiment_data


def load(data, **settings):
    experiment = build_experiment({"decontamination": {"exact": False, "threshold": None}} | data | settings, "x")
    return load_parallel(experiment, curate(experiment)[0])


def texts(parallel):
    rows = parallel.pairs.to_pylist()
    return {r["source"] for r in rows} | {r["target"] for r in rows}


def test_each_pivot_is_paired_with_each_new_language(only_second):
    parallel = load(only_second)
    rows = parallel.pairs.to_pylist()
    ways = {("eng", "ind"), ("ind", "eng"), ("eng", "jav"), ("jav", "eng")}
    assert {(r["source_language"], r["target_language"]) for r in rows} == ways
    assert len(rows) == 12 * 4
    assert len({r["row_id"] for r in rows}) == len(rows)
    row = next(r for r in rows if r["row_id"] == "second:20:jav-eng")
    assert (row["source"], row["target"]) == (
        "Si kucing ndeleng iwak ing omah 20.",
        "The cat sees the fish in house 20.",
    )
    counts = parallel.counts["second"]
    assert (counts.read, counts.kept, counts.pairs, counts.leaked, counts.held_out) == (12, 12, 48, 0, 0)


def lengthened(tmp_path, language, rows):
    def change(found):
        for row in found[:rows]:
            row[language] = " ".join([row[language]] * 40)

    return rewrite(tmp_path, "second.jsonl", change)


@pytest.mark.parametrize("way", ["both", "from-pivot", "to-pivot"])
def test_a_language_that_vanishes_is_refused_with_what_took_it(only_second, tmp_path, way):
    lengthened(tmp_path, "jav", 12)
    only_second["tasks"]["directions"] = way
    with pytest.raises(
        DataError, match="language jav has no pair left of 12 texts: (12|24) of .* are over train.max_target"
    ):
        prepare(build_experiment(only_second, "x"))
    only_second["cleaning"] = {"steps": [{"step": "length", "max_characters": 300}]}
    with pytest.raises(DataError, match="language jav has no pair left of 12 texts: length dropped 12"):
        prepare(build_experiment(only_second, "x"))


def test_a_language_may_have_limits_of_its_own(only_second, tmp_path):
    lengthened(tmp_path, "jav", 12)
    only_second["train"]["language_limits"] = {"jav": {"target": 6000, "prompt": 9000}}
    prepared = prepare(build_experiment(only_second, "x"))
    assert prepared.parallel.counts["second"].too_long == 0
    seen = {}
    for number in range(200):
        drawn = prepared.plan.draw(number)
        one = encode_drawn(prepared.encoder, drawn)
        key = drawn.source.partition("/")[2]
        seen[key] = max(seen.get(key, 0), len(one.target))
    assert seen["jav"] > prepared.encoder.max_target >= seen["ind"]
    assert Encoder(prepared.encoder.tokenizer, **prepared.encoder.settings()) == prepared.encoder
    lengthened(tmp_path, "ind", 12)
    with pytest.raises(DataError, match="language ind has no pair left"):
        prepare(build_experiment(only_second, "x"))


def test_a_language_that_loses_much_is_warned_of(only_second, tmp_path):
    lengthened(tmp_path, "jav", 4)
    said = io.StringIO()
    prepare(build_experiment(only_second, "x"), Console(file=said, width=200))
    assert "warning: jav lost 33% of its 12 texts: 8 of 24 pairs are over" in said.getvalue()
    assert "ind lost" not in said.getvalue()


@pytest.mark.parametrize(("way", "first"), [("from-pivot", True), ("to-pivot", False)])
def test_one_way_directions(only_second, way, first):
    only_second["tasks"]["directions"] = way
    rows = load(only_second).pairs.to_pylist()
    assert len(rows) == 24
    assert all((r["source_language"] == "eng") is first for r in rows)
    assert all((r["target_language"] == "eng") is not first for r in rows)


def test_holdout_keeps_a_sentence_from_all_directions_at_once(only_second):
    only_second["corpora"][0]["holdout"] = 0.5
    parallel = load(only_second)
    kept = {r["row_id"].rpartition(":")[0] for r in parallel.pairs.to_pylist()}
    expected = {f"second:{k}" for k in range(16, 28) if share_of(f"second:{k}") >= 0.5}
    assert kept == expected
    assert 0 < len(kept) < 12
    assert parallel.pairs.num_rows == 4 * len(kept)
    assert (parallel.counts["second"].held_out, parallel.counts["second"].kept) == (12 - len(kept), len(kept))
    only_second["tasks"]["directions"] = "to-pivot"
    assert {r["row_id"].rpartition(":")[0] for r in load(only_second).pairs.to_pylist()} == kept


@pytest.mark.parametrize("language", ["eng", "ind", "jav"])
def test_a_leak_in_any_language_drops_the_sentence_everywhere(only_second, tmp_path, language):
    rows = rewrite(tmp_path, "second.jsonl", lambda r: None)
    # the same sentence as one of the suite, in other case and spacing
    leak = {"eng": "the dog sees the BREAD in  house 61.", "ind": "SANG anjing melihat roti di rumah 61."}
    leak["jav"] = " Si asu ndeleng roti ing omah 61. "
    rewrite(tmp_path, "second.jsonl", lambda r: r[5].update({language: leak[language]}))
    parallel = load(only_second, decontamination={"threshold": None})
    assert parallel.counts["second"].leaked == 1
    assert parallel.counts["second"].kept == 11
    assert not any(r["row_id"].startswith("second:21:") for r in parallel.pairs.to_pylist())
    assert not {text_key(t) for t in texts(parallel)} & {
        text_key(t) for t in (leak[language], *rows[5].values()) if isinstance(t, str)
    }
    # with the search switched off the leaked sentence is there: it is the search that keeps it out
    unguarded = load(only_second)
    assert text_key(leak[language]) in {text_key(t) for t in texts(unguarded)}
    assert unguarded.counts["second"].leaked == 0


def test_prepare_clears_the_plan_of_evaluation_sentences(only_second, tmp_path):
    rewrite(
        tmp_path, "second.jsonl", lambda r: r.append({**r[0], "sid": 99, "jav": "Si asu ndeleng roti ing omah 61."})
    )
    prepared = prepare(build_experiment(only_second, "x"))
    assert prepared.counts()["corpora"]["second"]["leaked"] == 1
    assert "Si asu ndeleng roti ing omah 61." not in texts(prepared.parallel)
    assert prepared.plan.pairs.num_rows == 48


def test_without_ids_a_sentence_is_known_by_its_text(only_second, tmp_path):
    """The same English sentence in two pair files goes to the same side of the split."""
    rows = rewrite(tmp_path, "second.jsonl", lambda r: None)
    only_second["corpora"][0] |= {"id": None, "holdout": 0.5}
    parallel = load(only_second)
    expected = {f"second:{text_key(r['eng']).hex()}" for r in rows}
    kept = {r["row_id"].rpartition(":")[0] for r in parallel.pairs.to_pylist()}
    assert kept == {e for e in expected if share_of(e) >= 0.5}
    rewrite(tmp_path, "second.jsonl", lambda r: [x.update(ind="ganti", sid=0) for x in r])
    only_second["corpora"][0]["columns"].pop("jav")
    assert {r["row_id"].rpartition(":")[0] for r in load(only_second).pairs.to_pylist()} == kept


def test_rows_with_one_language_are_counted(only_second, tmp_path):
    def spoil(rows):
        rows[0].update(ind=None, jav="  ")
        rows[1].update(jav=None)

    rewrite(tmp_path, "second.jsonl", spoil)
    parallel = load(only_second)
    counts = parallel.counts["second"]
    assert (counts.read, counts.incomplete, counts.kept, counts.pairs) == (12, 1, 11, 42)
    assert "" not in texts(parallel)


def test_a_corpus_with_nothing_left_is_refused(only_second):
    only_second["corpora"][0]["pivots"] = ["eng", "ind", "jav"]
    with pytest.raises(DataError, match="corpus 'second'.*no pair left"):
        load(only_second)


def test_pairs_with_a_long_side_are_dropped_and_counted(only_second):
    parallel = drop_long(load(only_second), lambda found: ["house 20." not in t for t in found])
    assert parallel.counts["second"].too_long == 4
    assert parallel.pairs.num_rows == 44
    assert not any(r["row_id"].startswith("second:20:eng") for r in parallel.pairs.to_pylist())
    with pytest.raises(DataError, match="max_target_tokens"):
        drop_long(parallel, lambda found: [False] * len(found))


def test_all_corpora_are_joined(experiment_data):
    parallel = load(experiment_data)
    assert {k: c.kept for k, c in parallel.counts.items()} == {"first": 16, "second": 12, "third": 12}
    assert parallel.pairs.num_rows == 160


@pytest.mark.parametrize(("l2", "l3", "part"), [(["ind"], [], "in no group"), (["ind"], ["jav"], "unseen")])
def test_languages_of_a_corpus_must_be_old_or_new(only_second, l2, l3, part):
    only_second["languages"] |= {"l2": l2, "l3": l3}
    with pytest.raises(ConfigError, match=rf"corpora\.second: language 'jav'.*{part}"):
        prepare(build_experiment(only_second, "x"))
