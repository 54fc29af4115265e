"""The card of retrievers: recall of translations, purity of labels and time, next to chance."""

import numpy as np
import pandas as pd
import pytest
from tiny_corpus import tiny_experiment

from ialign_ray.config import build_experiment
from ialign_ray.evaluation.scoring.retriever_card import COLUMNS, printed_card, retriever_card

WORDS = {"cat": "kucing", "dog": "asu", "rice": "sega", "rain": "udan", "road": "dalan", "sun": "srengenge"}


def experiment(folder, contexts):
    """Pairs whose words all differ between languages, and a suite in which the first word decides the label."""
    rows = [
        {"eng": f"the {a} {b} here {k}", "jav": f"ana {WORDS[a]} {WORDS[b]} kene n{k}", "sid": k}
        for k, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS if a != b)
    ]
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    texts = []
    for k, (a, word) in enumerate([(a, word) for a, word in WORDS.items() for _ in range(5)]):
        own = chr(97 + k % 26) * 3 + chr(97 + k // 26)  # a word of this text alone
        label = "good" if a in ("cat", "dog", "sun") else "bad"
        split = ("train", "train", "test")[k % 3]
        texts.append(
            {"sid": f"s{k}", "eng": f"we saw {a} {own}", "jav": f"weruh {word} {own}", "label": label, "split": split}
        )
    pd.DataFrame(texts).to_parquet(folder / "suite.parquet")
    data = tiny_experiment(folder / "tiny", "unused")
    data |= {"languages": {"l1": ["eng"], "l2": ["jav"]}, "storage": {"data": str(folder), "runs": str(folder / "r")}}
    columns = {"eng": "eng", "jav": "jav"}
    data["corpora"] = [{"name": "own", "path": "pairs.csv", "columns": columns, "id": "sid"}]
    data["tasks"]["templates"] = ["eng"]
    data["evaluate"]["suites"][0] |= {"columns": columns}
    data["evaluate"]["contexts"] = contexts
    return build_experiment(data, "test")


def embed(texts):
    """An encoder that knows both languages."""
    known = {word: k for pair in enumerate(WORDS.items()) for k, word in ((pair[0], pair[1][0]), (pair[0], pair[1][1]))}
    made = np.zeros((len(texts), 2 * len(WORDS)), np.float32)
    for row, text in enumerate(texts):
        for place, word in enumerate(word for word in text.split() if word in known):
            made[row, known[word] + place * len(WORDS)] = 1
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny").mkdir()
    return tmp_path


CONTEXTS = [
    {"name": "a", "exemplars": {"retriever": "bm25", "k": [1, 2]}},
    {"name": "b", "exemplars": {"retriever": "random", "k": 2}},
    {"name": "c", "pairs": {"retriever": "model:last", "k": 2}},
]


def test_an_encoder_that_knows_both_languages_finds_translations_where_words_find_none(folder):
    card = retriever_card(experiment(folder, CONTEXTS), lambda layer: embed)
    assert list(card.columns) == list(COLUMNS)
    recall = card[card["measure"] == "recall"].set_index("retriever")
    assert set(recall["language"]) == {"jav"}
    assert set(recall["of"]) == {"eng"}
    assert recall["value"]["model:last"] == 1.0
    assert recall["value"]["bm25"] < 0.3
    assert recall["chance"].unique() == pytest.approx(2 / recall["pool"].iloc[0])
    purity = card[(card["measure"] == "purity") & (card["language"] == "eng")].set_index("retriever")
    assert purity["value"]["model:last"] > purity["value"]["random"]
    assert purity["chance"].between(0.5, 0.7).all()
    assert (card["p99_ms"] >= card["p50_ms"]).all()
    assert (card["k"] == 2).all()
    assert len(printed_card(card).rows) == len(card)


def test_the_models_layer_is_left_out_without_a_model_and_no_context_has_an_empty_card(folder):
    card = retriever_card(experiment(folder, CONTEXTS))
    assert "model:last" not in set(card["retriever"])
    assert retriever_card(experiment(folder, [])).empty
