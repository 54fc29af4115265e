"""`/v1/translate`, `/v1/classify` and `/v1/score`: what the server says is what this project computes by itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from serving_app import error_of

from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.inference.calibration import label_values
from ialign_ray.inference.generation import generate
from ialign_ray.inference.scoring import score_continuations

TEXTS = ["The river is high today.", "She sold two goats."]


def alone(api, prompts, count):
    encoder = api.library.served["plain"].encoder
    asked = [encoder.prompt(prompt) for prompt in prompts]
    return [a.text for a in generate(api.engine.model, encoder.tokenizer, asked, max_new_tokens=count)]


@pytest.fixture
def scorer(api):
    return Scorer(api.engine.model, api.library.served["plain"].encoder, 4096)


@pytest.mark.parametrize(
    ("model", "more", "prompt"),
    [
        ("plain", {}, "Translate the following text from English to Javanese.\n{}"),
        ("trained", {}, "Terjemahkan teks berikut dari bahasa Inggris ke bahasa Jawa.\n{}"),
        ("trained", {"prompt_language": "en"}, "Translate the following text from English to Javanese.\n{}"),
        ("trained", {"target": "sandi"}, "Terjemahkan teks berikut dari bahasa Inggris ke bahasa Sandi.\n{}"),
        ("trained", {"target": "qci"}, "Terjemahkan teks berikut dari bahasa Inggris ke bahasa Sandi.\n{}"),
    ],
)
def test_translations_are_asked_for_as_in_training(api, model, more, prompt):
    body = {"model": model, "source": "en", "target": "jav_Latn", "texts": TEXTS, "max_tokens": 9} | more
    found = api.post("/v1/translate", body).json()
    assert [one["text"] for one in found["data"]] == [
        text.strip() for text in alone(api, [prompt.format(text) for text in TEXTS], 9)
    ]
    assert [one["index"] for one in found["data"]] == [0, 1]
    encoder = api.library.served["plain"].encoder
    assert found["usage"]["prompt_tokens"] == sum(len(encoder.prompt(prompt.format(text))) for text in TEXTS)
    assert (found["source"], found["model"]) == ("eng", model)


@pytest.mark.parametrize("name", ["jav", "jv", "jv-ID", "Javanese", "javanese ", "Jawa"])
def test_languages_go_by_code_or_name(api, name):
    body = {"model": "trained", "source": "English", "target": name, "texts": TEXTS[:1], "max_tokens": 1}
    assert api.post("/v1/translate", body).json()["target"] == "jav"


def test_a_text_that_holds_a_slot_stays_as_it_is(api):
    body = {"source": "eng", "target": "jav", "texts": ["{source_language} {x}"], "max_tokens": 6}
    prompt = "Translate the following text from English to Javanese.\n{source_language} {x}"
    assert api.post("/v1/translate", body).json()["data"][0]["text"] == alone(api, [prompt], 6)[0].strip()


@pytest.mark.parametrize("name", ["sum", "mean", "calibrated"])
def test_labels_are_scored_as_suites_are(api, scorer, name):
    labels = {"bad": " terrible", "good": " good"}
    body = {"texts": TEXTS, "labels": labels, "prompt": "{text}\nGood or bad?", "scorer": name}
    found = api.post("/v1/classify", body).json()
    words = list(labels.values())
    prior = scorer.content_free([f"{t}\nGood or bad?" for t in ("N/A", "[MASK]", "")], words)
    values = label_values(scorer.labels([f"{t}\nGood or bad?" for t in TEXTS], words), name, prior)
    for told, expected in zip(found["data"], values):
        assert list(told["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-3)
        assert list(told["probabilities"].values()) == pytest.approx(softmax(expected).tolist(), abs=1e-3)
        assert told["label"] == list(labels)[int(np.argmax(expected))]
    assert found["scorer"] == name


def test_a_suite_brings_words_prompt_and_scorer(api):
    first = api.post("/v1/classify", {"model": "trained", "texts": TEXTS, "suite": "mood"}).json()
    assert (first["scorer"], first["prompt"]) == ("mean", "{text}\nGood or bad?")
    body = {"labels": {"bad": " buruk", "good": " baik"}, "prompt": "{text}\nBaik atau buruk?", "scorer": "mean"}
    spelled = api.post("/v1/classify", {"texts": TEXTS} | body).json()
    named = {"model": "trained", "texts": TEXTS, "suite": "mood", "prompt_language": "Indonesian"}
    assert api.post("/v1/classify", named).json()["data"] == spelled["data"]


def test_texts_of_a_request_never_depend_on_each_other_whatever_the_suites_are_scored_by(api, monkeypatch):
    trained = api.library.served["trained"]
    evaluate = trained.experiment.evaluate.model_copy(update={"scorer": "batch"})
    judged = trained.experiment.model_copy(update={"evaluate": evaluate})
    monkeypatch.setitem(api.library.served, "trained", replace(trained, experiment=judged))
    body = {"model": "trained", "suite": "mood"}
    both = api.post("/v1/classify", body | {"texts": TEXTS[:2]}).json()
    alone = api.post("/v1/classify", body | {"texts": TEXTS[:1]}).json()
    assert both["scorer"] == alone["scorer"] == "calibrated"
    assert list(both["data"][0]["scores"].values()) == pytest.approx(
        list(alone["data"][0]["scores"].values()), abs=1e-3
    )


def test_texts_of_several_slots_are_objects(api):
    texts = [{"premise": "It rains.", "hypothesis": "it is wet"}]
    found = api.post("/v1/classify", {"model": "trained", "texts": texts, "suite": "pair", "scorer": "sum"}).json()
    own = {"texts": texts, "prompt": "{premise} So {hypothesis}?", "labels": {"0": "no", "1": "yes"}, "scorer": "sum"}
    assert found["data"] == api.post("/v1/classify", own).json()["data"]
    refused = api.post("/v1/classify", {"model": "trained", "texts": ["one text"], "suite": "pair"})
    assert error_of(refused, 400)["param"] == "texts"


def test_the_prior_of_a_question_is_kept(api):
    body = {"texts": TEXTS[:1], "labels": ["yes", "no"], "prompt": "{text} Is it so?"}
    before = len(api.service.priors)
    answers = [api.post("/v1/classify", body).json()["data"] for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(api.service.priors) == before + 1


def test_continuations_are_scored(api):
    encoder = api.library.served["plain"].encoder
    texts = [" good", " very bad indeed"]
    found = api.post("/v1/score", {"prompt": TEXTS[0], "continuations": texts}).json()
    labels = [encoder.label(text) for text in texts]
    expected = score_continuations(api.engine.model, [encoder.prompt(TEXTS[0])] * 2, labels)
    assert [one["log_prob"] for one in found["data"]] == pytest.approx(expected.log_prob.tolist(), abs=1e-3)
    assert [one["tokens"] for one in found["data"]] == [len(label) for label in labels]
    raw = api.post("/v1/score", {"prompt": TEXTS[0], "continuations": texts, "raw": True}).json()
    expected = score_continuations(api.engine.model, [encoder.tokenizer(TEXTS[0])["input_ids"]] * 2, labels)
    assert [one["log_prob"] for one in raw["data"]] == pytest.approx(expected.log_prob.tolist(), abs=1e-3)
