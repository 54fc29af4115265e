"""The OpenAPI document: true, complete, and a server that keeps to it whatever it is sent."""

import json
import re
import subprocess
import sys
from collections import Counter

import pytest
from serving_app import running

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.serving.api import KeyRing, new_key
from ialign_ray.serving.api.errors import MEANINGS

ASKING = ["/v1/chat/completions", "/v1/completions", "/v1/translate", "/v1/classify", "/v1/score"]


@pytest.fixture(scope="module")
def document(api):
    return api.get("/openapi.json").json()


def operations(document):
    return [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]


def test_every_route_documents_its_errors(document):
    assert set(ASKING) <= set(document["paths"])
    for path, operation in operations(document):
        errors = {status: answer for status, answer in operation["responses"].items() if status != "200"}
        assert errors, path
        assert set(errors) >= ({str(s) for s in MEANINGS} if path in ASKING else {"500"}), path
        for status, answer in errors.items():
            assert answer["description"] == MEANINGS[int(status)]
            assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
        assert "422" not in operation["responses"]


def test_every_parameter_says_what_it_is(document):
    for path in ASKING:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = document["components"]["schemas"][body.rpartition("/")[2]]
        assert schema["additionalProperties"] is False
        assert all(field.get("description") for field in schema["properties"].values()), path


def test_keys_stand_in_the_document_where_they_are_asked_for(document, tiny_model, tiny_tokenizer):
    assert "securitySchemes" not in document["components"]
    with running(tiny_model, tiny_tokenizer, keys=KeyRing([new_key("a")[1]])) as keyed:
        found = keyed.get("/openapi.json").json()
    asked = {path for path, operation in operations(found) if "security" in operation}
    assert asked == {path for path in found["paths"] if path.startswith(("/v1/", "/metrics"))}


def test_the_page_needs_no_other_host(api, document):
    page = api.get("/docs").text
    for path in document["paths"]:
        assert path in page
    assert "repetition_penalty" in page
    assert not re.search(r"(src|href)=\"?https?:", page)


def test_the_limits_of_the_server_stand_in_the_document(tiny_model, tiny_tokenizer):
    settings = ServeConfig(limits=LimitsConfig(new_tokens=12, texts=5, labels=6))
    with running(tiny_model, tiny_tokenizer, settings) as api:
        schemas = api.get("/openapi.json").json()["components"]["schemas"]
        body = {"source": "eng", "target": "jav", "texts": ["a"]}
        assert api.post("/v1/translate", body | {"max_tokens": 12}).status_code == 200
        assert api.post("/v1/translate", body | {"max_tokens": 13}).status_code == 400
    chat = schemas["ChatRequest"]["properties"]
    assert [chat[name]["anyOf"][0]["maximum"] for name in ("max_tokens", "max_completion_tokens", "n")] == [12, 12, 5]
    assert schemas["TranslateRequest"]["properties"]["texts"]["maxItems"] == 5
    assert schemas["ClassifyRequest"]["properties"]["labels"]["anyOf"][0]["maxItems"] == 6


@pytest.fixture(scope="module")
def small(tiny_model, tiny_tokenizer):
    """A server whose answers are short, so that many requests fit into the time."""
    with running(tiny_model, tiny_tokenizer, ServeConfig(limits=LimitsConfig(new_tokens=12, texts=8))) as api:
        yield api


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["all", "positive"])
def test_whatever_is_sent_is_answered_as_documented(small, tmp_path, mode):
    """Generated requests to every route: no 5xx, and only answers that the document knows.

    First good and bad ones by the document as it is, where most end at an unknown model or language; then good ones
    with names that there are. `positive_data_acceptance` is left out: JSON Schema cannot say that `top_logprobs` needs
    `logprobs`, so requests that it allows may still be refused.
    """
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    document, before = small.get("/openapi.json").json(), len(small.log.text)
    if mode == "positive":
        with_names(document, list(small.library.served))
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    found = fuzzed(small.url, tmp_path, mode)
    assert found.returncode == 0, found.stdout[-6000:]
    small.quiet()
    cases = int(re.search(r"(\d+) generated", found.stdout)[1])
    statuses = Counter((line["route"].split()[1], line["status"]) for line in small.log.lines[before:])
    print(f"{mode}: {cases} requests,", dict(sorted(statuses.items())))
    assert cases > 150
    assert max(status for _, status in statuses) < 500
    assert mode == "all" or all(statuses[path, 200] for path in ASKING)


def with_names(document, models):
    given = {"model": [*models, None], "source": ["eng", "Javanese"], "target": ["ind"], "prompt_language": [None]}
    given |= {"language": [None, "eng"]}
    given |= {"suite": [None], "labels": [["yes", "no"], {"a": "yes", "b": "no"}], "prompt": ["{text} So?", "{text}"]}
    for schema in document["components"]["schemas"].values():
        if schema.get("additionalProperties") is False:
            schema["properties"] |= {name: {"enum": v} for name, v in given.items() if name in schema["properties"]}


def fuzzed(url, folder, mode):
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(folder / "openapi.json"), "--url", url, "-m", mode]
    # limit the cases, not the seconds: a busy machine sends fewer requests in the same time
    options = "-n 25 --seed 1 --phases examples,coverage,fuzzing --no-shrink --no-color"
    command += [*options.split(), "--exclude-checks", "positive_data_acceptance", "--generation-database", "none"]
    command += ["--request-timeout", "60"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
