"""Every set of the data pack through one build, its counts against plain ones; and the leaks that it is known for."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ialign_ray.config import build_experiment, load_experiment, override
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.pairs import load_parallel
from ialign_ray.errors import DataError
from ialign_ray.streaming.curate import curate
from ialign_ray.tasks.replay import load_replay

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
pytestmark = [pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here"), pytest.mark.slow]


def words(text):
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.lower())
    return kept.split()


def grams(text, n=5):
    found = words(text)
    return {tuple(found[k : k + n]) for k in range(len(found) - n + 1)}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    file = ROOT / "jobs" / "experiments" / "local-languages.yaml"
    return load_experiment(file, [f"storage.data={DATA}", f"storage.runs={runs}"])


@pytest.fixture(scope="module")
def built(experiment):
    return curate(experiment)[0]


def texts_read(corpus):
    """Texts of each language in the file, counted with pandas alone."""
    frame = pd.read_parquet(DATA / corpus.path)
    for column, wanted in corpus.where.items():
        frame = frame[frame[column].isin(wanted if isinstance(wanted, list) else [wanted])]
    counted = Counter()
    if corpus.long:
        frame = frame[frame[corpus.long.language].isin(corpus.long.values.values())]
        counted.update(frame.loc[frame[corpus.long.text].str.strip().astype(bool), corpus.long.language])
    counted.update({code: int(frame[column].str.strip().astype(bool).sum()) for code, column in corpus.columns.items()})
    return counted


def test_every_set_is_read_whole(experiment, built):
    assert len(experiment.corpora) == 7
    for corpus in experiment.corpora:
        if not corpus.units:
            read = built.counts["corpora"][corpus.name]["cells_in"]
            assert read == texts_read(corpus), corpus.name


def test_udhr_is_split_where_paragraphs_agree(experiment, built):
    corpus = next(c for c in experiment.corpora if c.name == "udhr")
    frame = pd.read_parquet(DATA / corpus.path)
    frame = frame[frame["name"].isin(corpus.where["name"])]
    units = frame.groupby("article")["n_units"].agg(["nunique", "first", "size"])
    expected = sum(int(r["first"]) if r["nunique"] == 1 else 1 for _, r in units.iterrows())
    assert built.counts["corpora"]["udhr"]["rows_in"] == expected > 31


def test_what_is_read_is_kept_or_dropped(experiment, built):
    for corpus in experiment.corpora:
        counts = built.counts["corpora"][corpus.name]
        kept = Counter()
        for split in counts["splits"].values():
            kept.update(split["texts"])
        lost = Counter()
        for cells in counts["dropped"].values():
            lost.update(cells)
        for code in corpus.languages:
            assert counts["cells_in"].get(code, 0) == kept[code] + lost[code], (corpus.name, code)


def test_files_hold_what_the_counts_say(experiment, built):
    for corpus in experiment.corpora:
        for split, counted in built.counts["corpora"][corpus.name]["splits"].items():
            table = built.read(corpus.name, split)
            assert table.num_rows == counted["rows"]
            for code, number in counted["texts"].items():
                assert table.num_rows - table[code].null_count == number


def test_copies_are_counted_as_plain_python_counts_them(experiment, built):
    frame = pd.read_parquet(DATA / "nusax" / "lexicon.parquet")
    plain = Counter()
    for row in frame[frame["lang"] != "eng"].itertuples():  # the experiment leaves its English out
        same = "".join(words(row.ind)) == "".join(words(row.word))
        plain[row.lang] += same and any(c.isalpha() for c in row.ind)
    assert {c: n for c, n in built.counts["corpora"]["lexicon"]["dropped"]["identical"].items() if n} == {
        c: n for c, n in plain.items() if n
    }


def test_language_identification_leaves_the_languages_it_does_not_know(experiment, built):
    learned = built.counts["learned"]["language"]
    for code in ("bug", "bjn", "ban", "mad", "nij"):
        assert not learned[code]["used"]
    assert learned["eng"]["used"]
    assert any("bug" in w for w in built.counts["warnings"])
    dropped = set()
    for counts in built.counts["corpora"].values():
        dropped |= {c for c, n in counts["dropped"].get("language", {}).items() if n}
    assert not dropped & {"bug", "bjn", "ban", "mad", "nij", "ace", "min"}


def test_flores_loses_next_to_nothing_but_what_leaks(built):
    counts = built.counts["corpora"]["flores"]
    lost = sum(n for step, n in counts["dropped_rows"].items() if step not in ("leaks", "overlaps"))
    assert lost <= 0.002 * 2009


def nusax(**columns):
    return {
        "name": "nusax-parallel",
        "path": "nusax/nusax.parquet",
        "id": "id",
        "columns": columns or {"eng": "eng", "min": "min", "sun": "sun"},
    }


def leaky(experiment, corpus, name, **changes):
    data = experiment.model_dump(mode="json") | {"corpora": [corpus], "name": name}
    return override(build_experiment(data, "x"), changes)


OFF = {"decontamination.exact": False, "decontamination.threshold": None}


def test_a_parallel_set_that_shares_its_sentences_with_a_suite_is_caught(experiment):
    """NusaX-MT is NusaX sentiment's sentences: nothing may be left of it, through any language."""
    shared = leaky(experiment, nusax(), "shared")
    built = curate(shared)[0]
    assert built.counts["corpora"]["nusax-parallel"]["dropped_rows"]["leaks"] >= 990
    assert built.counts["corpora"]["nusax-parallel"]["splits"] == {}
    with pytest.raises(DataError, match="no pair left"):
        load_parallel(shared, built)
    off = leaky(experiment, nusax(), "shared-off", **OFF)
    assert curate(off)[0].counts["corpora"]["nusax-parallel"]["splits"]["train"]["rows"] >= 990


def test_the_other_half_of_a_translation_set_leaks_through_its_pivot(experiment):
    """NusaTranslation's Indonesian as a suite, the column of its other languages not even named: the pairs still go."""
    frame = pd.read_parquet(DATA / "nusawrites" / "nusatranslation.parquet")
    suite = {
        "name": "nt",
        "path": "nusawrites/nusatranslation.parquet",
        "columns": ["ind"],
        "where": {"split_mt": "test"},
    }
    data = experiment.model_dump(mode="json")
    corpus = next(c for c in data["corpora"] if c["name"] == "nusatranslation")
    data |= {"corpora": [corpus], "name": "pivot"}
    data["decontamination"] |= {"sets": [suite], "threshold": None}
    data["evaluate"]["suites"] = []
    data["cleaning"] = {"steps": []}
    built = curate(build_experiment(data, "x"))[0]
    test = frame[frame["split_mt"] == "test"]
    joined = {"".join(words(t)) for t in (*test["ind"], *test["text"])}
    leaks = sum(any("".join(words(t)) in joined for t in (row.ind, row.text)) for row in frame.itertuples())
    assert built.counts["corpora"]["nusatranslation"]["dropped_rows"]["leaks"] == leaks
    assert 0 < leaks < len(frame)


def smsa_like(folder):
    """Reviews as IndoNLU's SmSA holds them: 110 of NusaX' 400 test sentences word for word, 150 more with changes at
    an end, and 300 that have nothing to do with them."""
    rows = pd.read_parquet(DATA / "nusax" / "nusax.parquet")
    test = rows.loc[rows["split"] == "test", "ind"].tolist()
    long = [t for t in test if len(words(t)) >= 16]
    same = [t for t in test if t not in long[:150]][:110]
    changed = [" ".join(t.split()[: -len(t.split()) // 4]) + " begitu kata mereka" for t in long[:150]]
    other = pd.read_parquet(DATA / "indonli" / "indonli.parquet")["premise"].drop_duplicates().tolist()[:300]
    texts = [*same, *changed, *other]
    frame = pd.DataFrame({"inputs": [f"Teks: {t}\nApa sentimennya?" for t in texts], "targets": "positif"})
    frame.to_json(folder / "smsa.jsonl", orient="records", lines=True, force_ascii=False)
    return texts


@pytest.mark.parametrize(("exact", "threshold"), [(True, 0.5), (True, None), (False, None)])
def test_replay_that_holds_test_sentences_is_cleared_of_them(experiment, tmp_path, exact, threshold):
    texts = smsa_like(tmp_path)
    suite = pd.read_parquet(DATA / "nusax" / "nusax.parquet")
    sentences = suite.loc[suite["split"] == "test", "ind"].tolist()
    index = EvaluationIndex.build(sentences, exact=exact, threshold=threshold)
    data = experiment.model_dump(mode="json") | {
        "replay": {"ratio": 0.5, "sources": [{"path": str(tmp_path / "smsa.jsonl")}]}
    }
    pool, counts = load_replay(build_experiment(data, "x"), index, lambda a, b: True)
    known = {tuple(words(s)) for s in sentences}
    plain_exact = sum(tuple(words(t)) in known for t in texts)
    by_gram = [grams(s) for s in sentences if grams(s)]
    plain = sum(
        tuple(words(t)) in known or any(2 * len(g & grams(f"Teks: {t} Apa sentimennya?")) >= len(g) for g in by_gram)
        for t in texts
    )
    assert plain_exact == 110
    assert plain == 260
    expected = {(True, 0.5): plain, (True, None): plain_exact, (False, None): 0}[exact, threshold]
    assert counts.leaked == expected
    assert pool.num_rows == 560 - expected


def test_a_holdout_of_flores_is_crossed_by_no_sentence(built):
    train, held = built.read("flores"), built.read("flores", "heldout")
    assert 100 < held.num_rows < 300
    for code in ("eng", "ind", "jav"):
        sides = [{tuple(words(t)) for t in part[code].to_pylist() if t and len(words(t)) > 3} for part in (train, held)]
        assert not sides[0] & sides[1]


def test_drops_say_where_they_stood(built):
    for path in built.drops("nusatranslation"):
        table = pq.read_table(path)
        assert min(table["line"].to_pylist()) >= 1
        assert all(re.match(r"nusatranslation:", i) for i in table["id"].to_pylist())
