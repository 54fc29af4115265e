"""No sentence of a suite is trained on, whatever its layout: long files, pairs of texts, languages not measured."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from ialign_ray.config import build_experiment
from ialign_ray.config.bundled import bundled_names
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
    experiment_data["evaluate"]["suites"] = bundled_names()
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
