"""Rows of each language from wide and long files, one text a row or two."""

import pandas as pd
import pytest

from ialign_ray.config import ClassificationSuite, PerplexitySuite, RetrievalSuite, TranslationSuite, build_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.load import (
    FOLDS,
    aligned,
    classification_rows,
    language_rows,
    limited,
    perplexity_rows,
    retrieval_rows,
    suite_frame,
    translation_rows,
)

LABELS = {"no": {"eng": "no"}, "maybe": {"eng": "maybe"}, "yes": {"eng": "yes"}}
PAIR = [{"name": "p", "text": "{premise} So {hypothesis}?"}]
ONE = [{"name": "p", "text": "{text}?"}]


@pytest.fixture
def nli(tmp_path):
    """Ten premises of three hypotheses in two languages, no split."""
    rows = [
        {"id": k, "label": list(LABELS)[k % 3], "p_en": f"premise {k // 3}", "h_en": f"claim {k}",
         "p_fr": f"prémisse {k // 3}", "h_fr": f"thèse {k}"}
        for k in range(30)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "nli.parquet")
    return tmp_path / "nli.parquet"


@pytest.fixture
def long(tmp_path):
    """Six sentences in Javanese, four of them in Sundanese, each row with its Indonesian."""
    rows = [
        {"id": f"s{k}", "lang": lang, "ind": f"kalimat {k}", "text": f"{lang} ukara {k}", "label": list(LABELS)[k % 3],
         "split": "train" if k < 3 else "test"}
        for lang, count in (("jv", 6), ("su", 4))
        for k in range(count)
    ]  # fmt: skip
    pd.DataFrame(rows).to_json(tmp_path / "long.jsonl", orient="records", lines=True)
    return tmp_path / "long.jsonl"


def long_suite(path, kind=ClassificationSuite, **changes):
    layout = {"language": "lang", "text": "text", "values": {"jav": "jv", "sun": "su"}}
    plain = {"name": "s", "path": str(path), "id": "id", "long": layout | changes.pop("long", {})}
    asked = {"labels": LABELS, "prompts": ONE} if kind is ClassificationSuite else {}
    return kind.model_validate(plain | asked | changes)


def nli_suite(path, **changes):
    columns = {"eng": {"premise": "p_en", "hypothesis": "h_en"}, "fra": {"premise": "p_fr", "hypothesis": "h_fr"}}
    plain = {"name": "nli", "path": str(path), "id": "id", "columns": columns, "labels": LABELS, "prompts": PAIR}
    crossed = {"split_column": None, "train": None, "together": "p_en"}
    return ClassificationSuite.model_validate(plain | crossed | changes)


def test_two_texts_a_row(nli):
    rows = classification_rows(nli_suite(nli), ".")
    first = rows.test.iloc[0]
    assert (first["text:premise"], first["text:hypothesis"]) == ("premise 0", "claim 0")
    assert first["chars"] == len("premise 0claim 0")
    assert len(rows.test) == len(rows.train) == 60


def test_folds_keep_a_premise_together_in_every_language(nli):
    suite = nli_suite(nli, test_limit=9)
    rows = classification_rows(suite, ".")
    assert rows.test["id"].nunique() == 9
    assert rows.train["id"].nunique() == 30  # the limit is of what is scored, not of what is learned from
    premise = rows.train["id"].astype(int) // 3
    assert (rows.train.groupby(premise)["fold"].nunique() == 1).all()
    assert 1 < rows.train["fold"].nunique() <= FOLDS
    known = rows.train.set_index(["language", "id"])["fold"]
    assert all(known[row.language, row.id] == row.fold for row in rows.test.itertuples())


def test_training_rows_have_no_fold_where_there_is_a_split(long):
    rows = classification_rows(long_suite(long, long={"join": "id"}), ".")
    assert rows.train["fold"].isna().all()
    assert set(rows.train["id"]) & set(rows.test["id"]) == set()


def test_a_long_file_is_told_apart_by_language(long):
    rows = classification_rows(long_suite(long, long={"join": "id"}), ".").test
    assert rows.groupby("language")["text"].apply(list).to_dict() == {
        "jav": ["jv ukara 3", "jv ukara 4", "jv ukara 5"],
        "sun": ["su ukara 3"],
    }
    assert set(rows["id"]) == {"s3", "s4", "s5"}  # one sentence in two languages has one id


def test_without_join_ids_of_two_languages_are_two_sentences(long):
    rows = classification_rows(long_suite(long), ".").test
    assert {"jav:s3", "sun:s3"} <= set(rows["id"])


def test_languages_that_are_not_measured_are_left_out(long):
    rows = classification_rows(long_suite(long, languages=["jav"]), ".").test
    assert set(rows["language"]) == {"jav"}


def test_the_limit_takes_the_same_sentences_of_each_language(long):
    suite = long_suite(long, PerplexitySuite, test_limit=2, long={"join": "id"})
    rows = perplexity_rows(suite, ".")
    jav, sun = (set(rows[rows["language"] == c]["id"]) for c in ("jav", "sun"))
    assert len(jav) == len(sun) == 2
    everything = language_rows(suite, suite_frame(suite, "."))["jav"]
    shared = everything[everything["id"].isin([f"s{k}" for k in range(4)])]
    assert set(limited(suite, shared)["id"]) == sun  # a longer list keeps what a shorter one chose


def test_rows_without_a_text_are_left_out_and_empty_languages_refused(nli):
    frame = pd.read_parquet(nli)
    frame.loc[:4, "h_fr"] = [None, "", " ", "x", "y"]
    frame.to_parquet(nli)
    rows = classification_rows(nli_suite(nli), ".").test
    assert rows.groupby("language").size().to_dict() == {"eng": 30, "fra": 27}
    frame["p_fr"] = " "
    frame.to_parquet(nli)
    with pytest.raises(DataError, match=r"column 'p_fr', 'h_fr' \(fra\) is empty; remove the language"):
        classification_rows(nli_suite(nli), ".")


def test_a_language_without_a_test_row_is_refused(long):
    frame = pd.read_json(long, lines=True)
    frame.loc[frame["lang"] == "su", "split"] = "train"
    frame.to_json(long, orient="records", lines=True)
    with pytest.raises(DataError, match="sun has no row with split = 'test'"):
        classification_rows(long_suite(long), ".")


def test_ids_that_stand_twice_and_missing_columns_are_refused(nli, long):
    with pytest.raises(DataError, match="duplicate id 'premise 0' in eng"):
        classification_rows(nli_suite(nli, id="p_en"), ".")
    with pytest.raises(DataError, match="'nope'"):
        classification_rows(nli_suite(nli, together="nope"), ".")
    frame = pd.read_parquet(nli)
    frame.loc[3, "label"] = None
    frame.to_parquet(nli)
    with pytest.raises(DataError, match="column 'label' is empty in a row"):
        classification_rows(nli_suite(nli), ".")


def test_a_pivot_beside_long_rows_is_aligned_row_by_row(long, experiment_data):
    """The Indonesian of a row is that row's, whatever the ids say."""
    suite = long_suite(long, TranslationSuite, columns={"ind": "ind"}, pivot="ind")
    experiment = build_experiment(experiment_data, "x")
    rows = translation_rows(suite, experiment, suite.prompts[0])
    assert rows.groupby("language", sort=False).size().to_dict() == {
        "ind-jav": 6, "jav-ind": 6, "ind-sun": 4, "sun-ind": 4
    }  # fmt: skip
    for row in rows.itertuples():
        first, second = row.source.split()[-1], row.target.split()[-1]
        assert first == second == row.id[-1]
    assert "from Indonesian to Javanese" in rows["prompt"][0]
    asked = suite.prompts[0].model_copy(update={"language": "ind"})
    assert "from Indonesia to Jawa" in translation_rows(suite, experiment, asked)["prompt"][0]


def test_a_pivot_beside_long_rows_is_one_text_a_sentence(long):
    suite = long_suite(long, PerplexitySuite, columns={"ind": "ind"}, long={"join": "id"})
    assert perplexity_rows(suite, ".").groupby("language").size().to_dict() == {"ind": 6, "jav": 6, "sun": 4}


def test_two_long_languages_need_something_that_joins_them(long):
    suite = long_suite(long, TranslationSuite, directions=[("jav", "sun")])
    found = language_rows(suite, suite_frame(suite, "."), repeated=True)
    with pytest.raises(DataError, match=r"nothing joins the rows of jav and sun; name `long.join`"):
        aligned(suite, found, "jav", "sun")
    suite = long_suite(long, TranslationSuite, directions=[("jav", "sun")], long={"join": "id"})
    pairs = aligned(suite, language_rows(suite, suite_frame(suite, ".")), "jav", "sun")
    assert pairs["id"].tolist() == ["s0", "s1", "s2", "s3"]
    assert pairs["second"].tolist() == [f"su ukara {k}" for k in range(4)]


def test_retrieval_needs_the_same_sentences_in_both(long):
    with pytest.raises(DataError, match="jav and sun share 0 sentences by id"):
        retrieval_rows(long_suite(long, RetrievalSuite, directions=[("jav", "sun")]), ".")
    rows = retrieval_rows(long_suite(long, RetrievalSuite, directions=[("jav", "sun")], long={"join": "id"}), ".")
    assert rows.groupby("language").size().to_dict() == {"jav": 6, "sun": 4}
