"""No sentence of a suite is trained on, whatever its layout: long files, pairs of texts, languages not measured."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from ialign_ray.config import build_experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.streaming.curate import curate, evaluation_index

DATA = Path(__file__).parents[3].parent / "shared" / "data"
LABELS = {"no": {"eng": "no"}, "yes": {"eng": "yes"}}


def sentences(what, count=12):
    return [f"{what} number {k} stands beside the old market hall of town {k * 7}" for k in range(count)]


@pytest.fixture
def files(tmp_path):
    pair = {"p_en": sentences("premise"), "h_en": sentences("claim"), "p_fr": sentences("prémisse"),
            "h_fr": sentences("thèse"), "label": ["no", "yes"] * 6, "id": range(12)}  # fmt: skip
    pd.DataFrame(pair).to_parquet(tmp_path / "pair.parquet")
    rows = [{"lang": lang, "ind": i, "text": f"{lang} {i}", "label": "yes" if k % 2 else "no", "split": "test"}
            for lang in ("jv", "su") for k, i in enumerate(sentences("kalimat"))]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "long.parquet")
    return tmp_path


def built(data, files, suites, corpus, languages):
    pd.DataFrame(corpus).to_csv(files / "corpus.csv", index=False)
    data |= {
        "corpora": [{"name": "c", "path": "corpus.csv", "columns": {"eng": "eng", "ind": "ind"}}],
        "cleaning": {"steps": []},
        "decontamination": {"threshold": None},
    }
    data["evaluate"]["suites"] = suites
    data["languages"] = languages
    return curate(build_experiment(data, "x"))[0].counts["corpora"]["c"]


@pytest.mark.parametrize("column", ["p_en", "h_en", "p_fr", "h_fr"])
def test_either_text_of_a_pair_in_any_language_is_kept_out(experiment_data, files, column):
    suite = {
        "kind": "classification", "name": "nli", "path": "pair.parquet", "id": "id", "languages": ["eng"],
        "columns": {"eng": {"premise": "p_en", "hypothesis": "h_en"}, "fra": {"premise": "p_fr", "hypothesis": "h_fr"}},
        "split_column": None, "labels": LABELS, "prompts": [{"name": "p", "text": "{premise} {hypothesis}"}],
    }  # fmt: skip
    leaked = pd.read_parquet(files / "pair.parquet")[column].tolist()[:5]
    corpus = {"eng": [*leaked, *sentences("other", 7)], "ind": sentences("lain")}
    counts = built(experiment_data, files, [suite], corpus, {"l1": ["eng"], "l2": ["ind"]})
    assert counts["dropped_rows"]["leaks"] == 5
    assert counts["splits"]["train"]["rows"] == 7


@pytest.mark.parametrize("kind", ["classification", "translation", "retrieval", "perplexity"])
@pytest.mark.parametrize("column", ["text", "ind"])
def test_long_rows_of_every_language_and_their_wide_side_are_kept_out(experiment_data, files, kind, column):
    suite = {"kind": kind, "name": "long", "path": "long.parquet", "columns": {"ind": "ind"}, "test_limit": 2,
             "long": {"language": "lang", "text": "text", "values": {"jav": "jv"}, "join": "ind"}}  # fmt: skip
    if kind == "classification":
        suite |= {"labels": LABELS, "train": None, "prompts": [{"name": "p", "text": "{text}"}]}
    elif kind != "perplexity":
        suite |= {"pivot": "ind"}
    frame = pd.read_parquet(files / "long.parquet")
    leaked = frame.loc[frame["lang"] == "su", column].tolist()[:5]  # of a language that the suite does not name
    corpus = {"eng": sentences("other"), "ind": [*leaked, *sentences("lain", 7)]}
    counts = built(experiment_data, files, [suite], corpus, {"l1": ["eng"], "l2": ["ind", "jav"]})
    assert counts["dropped_rows"]["leaks"] == 5


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")
def test_every_text_of_every_bundled_suite_is_in_the_index(experiment_data):
    experiment_data["storage"]["data"] = str(DATA)
    experiment_data["languages"] = {"l1": ["eng"], "l2": ["ind", "jav"]}
    # data sets of the hub are tested by `test_bundled_suites.py`, on rows in their layouts
    suites = {suite["name"]: suite["path"] for suite in expand_suites(bundled_names())}
    here = [name for name, path in suites.items() if path.startswith("pocket:") or (DATA / path).exists()]
    assert {"xnli", "indonli", "nusax-sentiment", "flores-translation"} <= set(here)
    experiment_data["evaluate"]["suites"] = here
    experiment_data["decontamination"] = {"threshold": None}
    index = evaluation_index(build_experiment(experiment_data, "x"))
    xnli = pd.read_parquet(DATA / "xnli" / "xnli_dev.parquet")
    nusa = pd.read_parquet(DATA / "nusawrites" / "nusatranslation.parquet")
    topic = pd.read_parquet(DATA / "nusawrites" / "nusaparagraph_topic.parquet")
    nli = pd.read_parquet(DATA / "indonli" / "indonli.parquet")
    flores = pd.read_parquet(DATA / "flores200" / "flores200.parquet")
    for name, texts in {
        "premise in a language that is not measured": xnli["premise_sw"],
        "hypothesis": xnli["hypothesis_en"],
        "translation": nusa.loc[nusa["lang"] == "bhp", "text"],
        "training rows too": nusa.loc[nusa["split_cls"] == "train", "text"],
        "paragraph": topic["text"],
        "entailment": nli["hypothesis"],
        "devtest": flores.loc[flores["split"] == "devtest", "bug_Latn"],
    }.items():
        found = index.exact(pa.array(texts.tolist(), pa.string()))
        assert found.mean() > 0.999, name
    assert not index.exact(pa.array(["A sentence that stands in no evaluation set, of town 42."])).any()


def planted(data, files, suite, leaked):
    """How many of these texts a corpus loses to the suite."""
    corpus = {"eng": sentences("other", len(leaked) + 3), "ind": [*leaked, *sentences("lain", 3)]}
    counts = built(data, files, [suite], corpus, {"l1": ["eng"], "l2": ["ind"]})
    return counts["dropped_rows"].get("leaks", 0)


def flores(tongue):
    return [f"{tongue} kalimat nomor {k} ing pasar lawas kutha {k * 7}" for k in range(24)]


def table():
    return pd.DataFrame({
        "id": [f"wiki-{k}" for k in range(24)], "url": [f"https://example.org/a b/{k}" for k in range(24)],
        "topic": ["science and old technology", "food and travel by sea"] * 12, "eng": sentences("plain", 24),
        "min": flores("min"), "bug": flores("bug"), "count": range(24),
        "jpn": [f"これは市場の文番号{k}です。" for k in range(24)],
    })  # fmt: skip


PLAIN = {"kind": "perplexity", "name": "plain", "id": "id", "columns": {"eng": "eng"}}


@pytest.mark.parametrize("name", ["s.parquet", "s.jsonl", "s.csv", "s.tsv"])
def test_undeclared_languages_of_a_suites_file_are_kept_out_and_labels_ids_and_addresses_are_not(
    experiment_data, files, name
):
    frame = table()
    kinds = {"parquet": lambda p: frame.to_parquet(p), "csv": lambda p: frame.to_csv(p, index=False),
             "tsv": lambda p: frame.to_csv(p, index=False, sep="\t"),
             "jsonl": lambda p: frame.to_json(p, orient="records", lines=True)}  # fmt: skip
    kinds[name.partition(".")[2]](files / name)
    suite = PLAIN | {"path": name}
    assert planted(experiment_data, files, suite, [*frame["min"][:4], *frame["bug"][:3], *frame["jpn"][:2]]) == 9
    index = evaluation_index(build_experiment(experiment_data, "x"))
    harmless = [*frame["topic"][:2], *frame["url"][:2], *frame["id"][:2]]
    assert not index.exact(pa.array(harmless)).any()


def test_nested_translations_are_kept_out(experiment_data, files):
    rows = [
        {"eng": e, "other": {"min": m, "more": [b, None]}}
        for e, m, b in zip(sentences("plain", 24), flores("min"), flores("bug"))
    ]
    pd.DataFrame(rows).to_json(files / "s.jsonl", orient="records", lines=True)
    suite = {k: v for k, v in PLAIN.items() if k != "id"} | {"path": "s.jsonl"}
    assert planted(experiment_data, files, suite, [*flores("min")[:4], *flores("bug")[:3]]) == 7


@pytest.mark.parametrize("path", ["dev/{language}.dev", "dev/all", "flat"])
def test_aligned_files_of_undeclared_languages_are_kept_out(experiment_data, files, path):
    place = {"dev/{language}.dev": "dev/{}.dev", "dev/all": "dev/all.{}", "flat": "flat/{}.txt"}[path]
    for code, texts in {
        "eng": sentences("plain", 24),
        "min": flores("min"),
        "odd": ["a line of another text here"],
    }.items():
        file = files / place.format(code)
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(texts) + "\n")
    suite = {"kind": "perplexity", "name": "plain", "path": path, "columns": {"eng": "eng"}, "format": "lines"}
    assert planted(experiment_data, files, suite, [*flores("min")[:4], "a line of another text here"]) == 4


def test_other_languages_of_a_translation_memory_are_kept_out(experiment_data, files):
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>{e}</seg></tuv><tuv xml:lang="min"><seg>{m}</seg></tuv></tu>'
        for e, m in zip(sentences("plain", 24), flores("min"), strict=True)
    )
    (files / "s.tmx").write_text(f'<tmx version="1.4"><body>{units}</body></tmx>')
    suite = {"kind": "perplexity", "name": "plain", "path": "s.tmx", "columns": {"eng": "en"}}
    assert planted(experiment_data, files, suite, flores("min")[:4]) == 4


def test_undeclared_languages_of_long_files_instructions_and_protected_sets_are_kept_out(experiment_data, files):
    long = pd.DataFrame([{"lang": lang, "text": f"{lang} {t}", "sun": s, "label": "yes"}
                         for lang in ("jv", "su") for t, s in zip(flores("a"), flores("sun"))])  # fmt: skip
    long.to_parquet(files / "l.parquet")
    suite = {"kind": "perplexity", "name": "long", "path": "l.parquet", "columns": {},
             "long": {"language": "lang", "text": "text", "values": {"ind": "jv"}}}  # fmt: skip
    assert planted(experiment_data, files, suite, flores("sun")[:4]) == 4
    asked = [{"inputs": f"Translate number {k} please, dear model", "targets": "the same answer for every one",
              "inputs_min": m} for k, m in enumerate(flores("min"))]  # fmt: skip
    pd.DataFrame(asked).to_json(files / "i.jsonl", orient="records", lines=True)
    suite = {"kind": "instructions", "name": "old", "path": "i.jsonl"}
    assert planted(experiment_data, files, suite, [*flores("min")[:4], "the same answer for every one"]) == 4
    table().to_parquet(files / "set.parquet")
    experiment_data["evaluate"]["suites"] = []
    experiment_data["decontamination"] = {"sets": [{"name": "s", "path": "set.parquet", "columns": ["eng"]}]}
    assert evaluation_index(build_experiment(experiment_data, "x")).exact(pa.array(flores("bug"))).all()


def test_a_small_file_of_words_keeps_its_undeclared_language(experiment_data, files):
    words = [f"{a}{b}" for a in "mbtr" for b in ("angan", "ulih", "erak")]
    frame = pd.DataFrame({"eng": [w[::-1] for w in words], "min": words, "kind": ["noun", "verb"] * 6})
    frame.to_csv(files / "s.csv", index=False)
    suite = {k: v for k, v in PLAIN.items() if k != "id"} | {"path": "s.csv"}
    assert planted(experiment_data, files, suite, [*words[:3], "noun"]) == 3
