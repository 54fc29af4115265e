"""`context` of requests: the prompt that a model reads, the examples in the answer, limits and refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving_app import error_of, running

from ialign_ray.config.contexts import ContextConfig
from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.incontext.stored import ContextExemplar, ContextPair, ExemplarPool, StoredContext
from ialign_ray.inference.calibration import CONTENT_FREE, label_values
from ialign_ray.inference.generation import generate
from ialign_ray.serving.api import KeyRing, new_key

CLASSIFY, TRANSLATE, CHAT = "/v1/classify", "/v1/translate", "/v1/chat/completions"
LABELS = {"bad": " terrible", "good": " good"}
PROMPT = "{text}\nGood or bad?"
EXEMPLARS = [
    {"text": "The river is dirty.", "label": "bad", "id": "a"},
    {"text": "She sold two fat goats.", "label": "good", "id": "b"},
    {"text": "The goats are ill.", "label": "bad"},
]
ASKED = {"texts": ["Her goats are fat."], "labels": LABELS, "prompt": PROMPT, "scorer": "sum"}
PAIRS = [
    {"source": "The house is big.", "target": "Omah iku gedhe.", "id": "p"},
    {"source": "The child eats rice.", "target": "Bocah mangan sega."},
]
TRANSLATED = {"source": "eng", "target": "jav", "texts": ["The child eats."], "max_tokens": 4}
SAID = {"messages": [{"role": "user", "content": "The child eats."}], "max_tokens": 4, "temperature": 0}
MOOD = {"bad": {"eng": " bad", "ind": " buruk"}, "good": {"eng": " good", "ind": " baik"}}


def carried(**settings):
    """A context as a version carries it: judged on the suite `mood`."""
    texts = {"eng": ["the river is dirty", "two fat goats", "the goats are ill"], "jav": ["kali reged", "wedhus lemu"]}
    exemplars = [
        ContextExemplar(f"s{k}", code, {"text": text}, ("bad", "good")[k % 2])
        for code, own in texts.items()
        for k, text in enumerate(own)
    ]
    pairs = [
        ContextPair(f"t{k}", *both, "jav", "eng")
        for k, both in enumerate([("omah gedhe", "a big house"), ("wedhus", "goats")])
    ]
    given = {"name": "icl", "exemplars": {"k": 2}, "pairs": {"k": 1}} | settings
    return StoredContext(ContextConfig.model_validate(given), {"mood": ExemplarPool(("text",), MOOD, exemplars)}, pairs)


@pytest.fixture(scope="module")
def api(tiny_model, tiny_tokenizer):
    with running(tiny_model, tiny_tokenizer) as one:
        trained = one.library.served["trained"]
        one.library.served["mine/3"] = replace(trained, id="mine/3", context=carried())
        one.library.served["lines"] = replace(
            trained, id="lines", context=carried(pairs=None, labels={"exemplars": "ind", "line": True})
        )
        yield one


def scorer_of(api, name="plain"):
    return Scorer(api.engine.model, api.library.served[name].encoder, 4096)


def shown(*exemplars):
    return "\n\n".join(f"{text}\nGood or bad?\n{LABELS[label]}" for text, label in exemplars)


def first(response):
    assert response.status_code == 200, response.text
    return response.json()["data"][0]


@pytest.mark.parametrize("scorer", ["sum", "mean", "calibrated"])
def test_labels_are_scored_after_the_exemplars_that_come_back(api, scorer):
    found = first(api.post(CLASSIFY, ASKED | {"context": {"exemplars": EXEMPLARS}, "scorer": scorer}))
    used = found["context"]
    assert (used["name"], used["dropped"], used["refused"]) == (None, 0, 0)
    assert sorted(e["id"] for e in used["exemplars"]) == ["2", "a", "b"]
    assert used["exemplars"][-1]["id"] == "2"  # the most similar one
    before = shown(*((e["text"], e["label"]) for e in used["exemplars"]))
    own = scorer_of(api)

    def prompt(text):
        return f"{before}\n\n{text}\nGood or bad?"

    words = list(LABELS.values())
    free = own.labels([prompt(text) for text in CONTENT_FREE], words)
    expected = label_values(own.labels([prompt(ASKED["texts"][0])], words), scorer, free)[0]
    assert list(found["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-3)


def test_turns_are_those_of_the_chat_template(api):
    body = ASKED | {"model": "chat", "context": {"exemplars": EXEMPLARS, "form": "turns", "k": 1}}
    found = first(api.post(CLASSIFY, body))
    (one,) = found["context"]["exemplars"]
    turns = [
        {"role": "user", "content": f"{one['text']}\nGood or bad?"},
        {"role": "assistant", "content": LABELS[one["label"]]},
    ]
    turns.append({"role": "user", "content": f"{ASKED['texts'][0]}\nGood or bad?"})
    expected = scorer_of(api, "chat").labels([turns], list(LABELS.values())).log_prob[0]
    assert list(found["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_text_is_never_its_own_exemplar(api):
    body = ASKED | {"texts": [" THE goats are ill.", "the river is dirty"], "context": {"exemplars": EXEMPLARS}}
    found = api.post(CLASSIFY, body).json()["data"]
    assert [sorted(e["id"] for e in one["context"]["exemplars"]) for one in found] == [["a", "b"], ["2", "b"]]
    assert [one["context"]["refused"] for one in found] == [1, 1]
    alone = body | {"texts": [EXEMPLARS[0]["text"]], "context": {"exemplars": EXEMPLARS[:1]}}
    assert error_of(api.post(CLASSIFY, alone), 400)["param"] == "context"


def test_exemplars_that_do_not_fit_are_dropped_whole(api):
    many = [{"text": f"The goats of house {k} eat rice all day and night.", "label": "good"} for k in range(40)]
    many.append({"text": "Her goats are fat and " + "very " * 900, "label": "bad"})
    found = first(api.post(CLASSIFY, ASKED | {"context": {"exemplars": many[:40], "k": 40}}))
    used = found["context"]
    assert len(used["exemplars"]) + used["dropped"] == 40
    assert 0 < used["dropped"] < 40
    before = shown(*((e["text"], e["label"]) for e in used["exemplars"]))
    encoder = api.library.served["plain"].encoder
    one_more = shown((many[0]["text"], "good"))
    size, longest = (
        len(encoder.prompt(f"{text}\n\n{ASKED['texts'][0]}\nGood or bad?"))
        for text in (before, f"{one_more}\n\n{before}")
    )
    labels = max(map(len, encoder.labels(list(LABELS.values()))))
    assert size + labels <= 512 < longest + labels
    alone = ASKED | {"context": {"exemplars": many[40:]}}
    error = error_of(api.post(CLASSIFY, alone), 400)
    assert error["code"] == "context_length_exceeded"


def test_tokens_of_examples_and_priors_are_counted(api):
    body = ASKED | {"context": {"exemplars": EXEMPLARS}}
    plain, calibrated = (
        api.post(CLASSIFY, body | {"scorer": name}).json()["usage"]["prompt_tokens"] for name in ("sum", "calibrated")
    )
    assert calibrated > 3 * plain
    assert plain > 2 * api.post(CLASSIFY, ASKED).json()["usage"]["prompt_tokens"]


# --- a context that the model carries


def test_a_suite_has_the_context_that_it_was_judged_with(api):
    body = {"model": "mine/3", "texts": ["Her goats are fat."], "suite": "mood"}
    implied = api.post(CLASSIFY, body | {"language": "eng"}).json()
    named = api.post(CLASSIFY, body | {"language": "English", "context": "icl"}).json()
    assert implied["data"] == named["data"]
    used = named["data"][0]["context"]
    assert used["name"] == "icl"
    assert [e["language"] for e in used["exemplars"]] == ["eng", "eng"]
    assert [p["id"] for p in used["pairs"]] == ["t1"]
    assert (used["pairs"][0]["source_language"], used["pairs"][0]["source"]) == ("eng", "goats")
    assert "context" not in first(api.post(CLASSIFY, body | {"context": "none"}))
    without = {"model": "trained", "texts": body["texts"], "suite": "mood"}
    assert first(api.post(CLASSIFY, body | {"context": "none"})) == first(api.post(CLASSIFY, without))


def test_an_own_question_with_the_same_labels_takes_the_named_context(api):
    body = {"model": "mine/3", "texts": ["wedhus lemu banget"], "labels": ["good", "bad"], "prompt": "{text} So?"}
    found = first(api.post(CLASSIFY, body | {"context": "icl", "language": "jav"}))
    assert {e["language"] for e in found["context"]["exemplars"]} == {"jav"}
    assert "context" not in first(api.post(CLASSIFY, body))
    assert len(first(api.post(CLASSIFY, body | {"context": "icl"}))["context"]["exemplars"]) == 2


def test_a_line_names_the_labels_of_both_languages(api):
    body = {"model": "lines", "texts": ["Her goats are fat."], "suite": "mood", "language": "eng", "scorer": "sum"}
    found = first(api.post(CLASSIFY, body))
    exemplars = [f"{e['text']}\nGood or bad?\n{MOOD[e['label']]['ind']}" for e in found["context"]["exemplars"]]
    line = 'Labels in Indonesian and English: " buruk" is " bad", " baik" is " good".'
    prompt = "\n\n".join([line, *exemplars, "Her goats are fat.\nGood or bad?"])
    expected = scorer_of(api, "trained").labels([prompt], [" bad", " good"]).log_prob[0]
    assert list(found["scores"].values()) == pytest.approx(np.asarray(expected).tolist(), abs=1e-3)


# --- translation memory


def answers(api, prompts, count, name="plain"):
    encoder = api.library.served[name].encoder
    asked = [encoder.prompt(p) if isinstance(p, str) else encoder.conversation(p) for p in prompts]
    return [a.text.strip() for a in generate(api.engine.model, encoder.tokenizer, asked, max_new_tokens=count)]


def test_similar_pairs_precede_a_translation_and_come_back(api):
    found = first(api.post(TRANSLATE, TRANSLATED | {"context": {"pairs": PAIRS, "k": 1}}))
    (pair,) = found["context"]["pairs"]
    assert (pair["id"], pair["target"], pair["target_language"]) == ("1", "Bocah mangan sega.", "jav")
    prompt = (
        '"The child eats rice." (English) means "Bocah mangan sega." (Javanese).\n\n'
        "Translate the following text from English to Javanese.\nThe child eats."
    )
    assert found["text"] == answers(api, [prompt], 4)[0]


def test_a_translation_finds_the_pairs_that_the_model_carries_in_both_directions(api):
    body = TRANSLATED | {"model": "mine/3", "texts": ["the goats eat"], "context": "icl"}
    there = first(api.post(TRANSLATE, body))["context"]
    assert (there["name"], [p["id"] for p in there["pairs"]]) == ("icl", ["t1"])
    back = first(api.post(TRANSLATE, body | {"source": "jav", "target": "eng", "texts": ["wedhus mangan"]}))["context"]
    assert [(p["source"], p["target"]) for p in back["pairs"]] == [("wedhus", "goats")]
    assert "context" not in first(api.post(TRANSLATE, body | {"context": "none"}))


@pytest.mark.parametrize("text", ["the child EATS rice.", "The house is big."])
def test_a_text_is_never_in_its_own_memory(api, text):
    found = first(api.post(TRANSLATE, TRANSLATED | {"texts": [text], "context": {"pairs": PAIRS}}))
    assert text.casefold() not in [p["source"].casefold() for p in found["context"]["pairs"]]
    assert (len(found["context"]["pairs"]), found["context"]["refused"]) == (1, 1)
    quoted = [{"role": "user", "content": f"Please translate this into good Javanese:\n{text}"}]
    said = api.post(CHAT, SAID | {"messages": quoted, "context": {"pairs": PAIRS}}).json()
    assert text.casefold() not in [p["source"].casefold() for p in said["context"]["pairs"]]


@pytest.mark.parametrize("model", ["plain", "chat"])
def test_pairs_precede_the_last_turn_of_a_conversation(api, model):
    context = {"pairs": PAIRS[1:]}
    found = api.post(CHAT, SAID | {"model": model, "context": context}).json()
    turns = [{"role": "user", "content": '"The child eats rice." means "Bocah mangan sega.".\n\nThe child eats.'}]
    assert found["choices"][0]["message"]["content"].strip() == answers(api, [turns], 4, model)[0]
    assert [p["id"] for p in found["context"]["pairs"]] == ["0"]


def test_the_client_of_openai_sends_and_reads_a_context(api):
    client = api.openai()
    extra = {"context": {"pairs": PAIRS}}
    found = client.chat.completions.create(model="plain", messages=SAID["messages"], max_tokens=2, extra_body=extra)
    assert len(found.context["pairs"]) == 2
    events = list(
        client.chat.completions.create(
            model="plain", messages=SAID["messages"], max_tokens=2, stream=True, extra_body=extra
        )
    )
    assert [len(e.context["pairs"]) for e in events if hasattr(e, "context")] == [2]


def test_pairs_that_do_not_fit_are_dropped_whole(api):
    pairs = [{"source": f"The house number {k} is big and old", "target": "Omah iku gedhe lan tuwa"} for k in range(40)]
    for route, body in ((TRANSLATE, TRANSLATED), (CHAT, SAID)):
        found = api.post(route, body | {"context": {"pairs": pairs, "k": 40}}).json()
        used = found["context"] if route == CHAT else found["data"][0]["context"]
        assert len(used["pairs"]) + used["dropped"] == 40
        assert 0 < used["dropped"] < 40
        assert found["usage"]["prompt_tokens"] <= 512 - 4
        long = {"pairs": [{"source": "word " * 2000, "target": "x"}]}
        assert error_of(api.post(route, body | {"context": long}), 400)["code"] == "context_length_exceeded"


# --- refusals

REFUSED = [
    # (route, body, context, param, code)
    (CLASSIFY, {}, "unheard-of", "context", "unknown_context"),
    (CLASSIFY, {}, {"exemplars": []}, "context.exemplars", "invalid_value"),
    (CLASSIFY, {}, {}, "context.exemplars", "invalid_value"),
    (CLASSIFY, {}, {"name": "icl", "k": 3}, "context.name", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": EXEMPLARS, "k": 4}, "context.k", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": EXEMPLARS, "k": 0}, "context.k", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": EXEMPLARS, "retriever": "magic"}, "context.retriever", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": EXEMPLARS, "depth": 1}, "context.depth", "unknown_parameter"),
    (CLASSIFY, {}, {"exemplars": [{"text": "x", "label": "fine"}]}, "context.exemplars.0.label", "unknown_label"),
    (CLASSIFY, {}, {"exemplars": [{"text": "", "label": "bad"}]}, "context.exemplars.0.text", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": [{"text": "x"}]}, "context.exemplars.0.label", "missing_parameter"),
    (CLASSIFY, {}, {"exemplars": [{"text": {"b": "x"}, "label": "bad"}]}, "context.exemplars.0.text", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": EXEMPLARS * 22}, "context.exemplars", "invalid_value"),
    (CLASSIFY, {}, {"exemplars": [{"text": "x" * 20_001, "label": "bad"}]}, "context.exemplars", "invalid_value"),
    (CLASSIFY, {}, {"pairs": PAIRS}, "context.pairs", "unknown_parameter"),
    (CLASSIFY, {}, 5, "context", "invalid_value"),
    (CLASSIFY, {"model": "mine/3", "labels": ["yes", "no"]}, "icl", "context", "invalid_value"),
    (CLASSIFY, {"model": "mine/3", "labels": ["bad", "good"], "language": "ban"}, "icl", "context", "invalid_value"),
    *[
        (route, {}, context, param, code)
        for route in (TRANSLATE, CHAT)
        for context, param, code in [
            ("unheard-of", "context", "unknown_context"),
            ({"pairs": []}, "context.pairs", "invalid_value"),
            ({"pairs": PAIRS, "k": 3}, "context.k", "invalid_value"),
            ({"pairs": PAIRS * 33}, "context.pairs", "invalid_value"),
            ({"pairs": [{"source": "a"}]}, "context.pairs.0.target", "missing_parameter"),
            ({"exemplars": EXEMPLARS}, "context.exemplars", "unknown_parameter"),
        ]
    ],
    (TRANSLATE, {"model": "lines"}, "icl", "context", "invalid_value"),
    (TRANSLATE, {"model": "mine/3", "target": "ind"}, "icl", "context", "invalid_value"),
    (CHAT, {"model": "lines"}, "icl", "context", "invalid_value"),
    (CHAT, {"messages": [{"role": "system", "content": "x"}]}, {"pairs": PAIRS}, "messages", "invalid_value"),
    (CLASSIFY, {"language": "q"}, {"exemplars": EXEMPLARS}, "language", "unknown_language"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "more", "context", "param", "code"), REFUSED)
def test_a_wrong_context_is_refused_in_one_sentence(api, route, more, context, param, code):
    good = {CLASSIFY: ASKED, TRANSLATE: TRANSLATED, CHAT: SAID}[route]
    error = error_of(api.post(route, good | more | {"context": context}), 400)
    assert (error["param"], error["code"]) == (param, code)
    assert "\n" not in error["message"]


def test_the_limits_of_examples_are_those_of_the_server(tiny_model, tiny_tokenizer):
    settings = ServeConfig(limits=LimitsConfig(exemplars=2, body_bytes=2000))
    with running(tiny_model, tiny_tokenizer, settings) as api:
        schemas = api.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["ExemplarContext"]["properties"]["exemplars"]["anyOf"][0]["maxItems"] == 2
        assert schemas["PairContext"]["properties"]["pairs"]["anyOf"][0]["maxItems"] == 2
        assert api.post(CLASSIFY, ASKED | {"context": {"exemplars": EXEMPLARS[:2]}}).status_code == 200
        error_of(api.post(CLASSIFY, ASKED | {"context": {"exemplars": EXEMPLARS}}), 400)
        many = ASKED | {"texts": ["goats"] * 30, "context": {"exemplars": EXEMPLARS[:2]}}
        assert error_of(api.post(CLASSIFY, many), 400)["param"] == "context"


def test_a_key_pays_for_the_examples(tiny_model, tiny_tokenizer):
    secret, entry = new_key("a")
    entry = entry.model_copy(update={"tokens_per_minute": 60})
    with running(tiny_model, tiny_tokenizer, keys=KeyRing([entry])) as api:
        headers = {"Authorization": f"Bearer {secret}"}
        assert api.post(CLASSIFY, ASKED, headers=headers).status_code == 200
        body = ASKED | {"context": {"exemplars": EXEMPLARS}}
        assert api.post(CLASSIFY, body, headers=headers).status_code == 429


# --- documentation


def curls():
    """Route and body of each `curl` of the page that has a context."""
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    found = re.findall(r"^curl localhost:8000(\S+) [^\n]*\\\n  -d '(.*?)'$", page, re.MULTILINE | re.DOTALL)
    return [(route, json.loads(body)) for route, body in found if '"context"' in body]


def test_the_requests_of_the_page_are_answered_with_their_examples(api):
    requests = curls()
    assert {route for route, _ in requests} == {CLASSIFY, TRANSLATE, CHAT}
    for route, body in requests:
        answer = api.post(route, body).json()
        used = answer["context"] if route == CHAT else answer["data"][0]["context"]
        assert used["exemplars"] or used["pairs"]
