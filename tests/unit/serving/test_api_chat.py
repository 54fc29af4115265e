"""`/v1/chat/completions` through the `openai` client, on a running server."""

import math

import openai
import pytest
import torch
from openai.types.chat import ChatCompletion, ChatCompletionChunk

ONE = [{"role": "user", "content": "Say the number 4 in words."}]


def ask(api, **more):
    arguments = {"model": "plain", "messages": ONE, "temperature": 0, "max_tokens": 12} | more
    return api.openai().chat.completions.create(**arguments)


def greedy(api, ids, count):
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(api.engine.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize("more", [{}, {"logprobs": True, "top_logprobs": 2}], ids=str)
def test_answers_are_what_openais_own_types_demand(api, more):
    """The client builds its objects without checks, so they are checked here, unknown fields included."""
    body = {"model": "plain", "messages": ONE, "temperature": 0, "max_tokens": 4} | more
    found = ChatCompletion.model_validate_json(api.post("/v1/chat/completions", body).text)
    lines = api.post("/v1/chat/completions", body | {"stream": True}).text.split("\n\n")
    chunks = [ChatCompletionChunk.model_validate_json(line[6:]) for line in lines if line.startswith("data: {")]
    assert len(chunks) > 2
    for one in (found, found.choices[0], found.choices[0].message, found.usage, *chunks, chunks[1].choices[0].delta):
        assert not one.model_extra


@pytest.mark.parametrize("model", ["plain", "chat"])
def test_the_prompt_of_one_turn_is_that_of_training(api, model):
    encoder = api.library.served[model].encoder
    made = greedy(api, encoder.prompt(ONE[0]["content"]), 12)
    found = ask(api, model=model)
    assert found.choices[0].message.content == encoder.tokenizer.decode(made)
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == "length"
    assert found.usage.prompt_tokens == len(encoder.prompt(ONE[0]["content"]))
    assert (found.usage.completion_tokens, found.usage.total_tokens) == (12, 12 + found.usage.prompt_tokens)
    assert (found.model, found.object) == (model, "chat.completion")
    assert found.system_fingerprint == api.library.served[model].id


def test_several_turns_go_through_the_chat_template(api):
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "four"},
    ]
    tokenizer = api.library.served["chat"].encoder.tokenizer
    text = "<system>Be brief.\n<user>One\ntwo\n<assistant>three\n<user>four\n<assistant>"
    made = greedy(api, tokenizer(text)["input_ids"], 12)
    assert ask(api, model="chat", messages=turns).choices[0].message.content == tokenizer.decode(made)


def test_without_a_template_system_text_stands_before_the_one_turn(api):
    found = ask(api, messages=[{"role": "system", "content": "Be brief."}, *ONE])
    assert found == ask(api, messages=[{"role": "user", "content": f"Be brief.\n{ONE[0]['content']}"}]).model_copy(
        update={"id": found.id, "created": found.created}
    )


@pytest.mark.parametrize(
    ("model", "roles"),
    [
        ("plain", ("assistant", "user")),
        ("plain", ("system",)),
        ("plain", ("user", "assistant")),
        ("chat", ("assistant", "user")),
    ],
)
def test_turns_that_a_model_cannot_take_are_refused(api, model, roles):
    with pytest.raises(openai.BadRequestError, match="turn|template") as caught:
        ask(api, model=model, messages=[{"role": role, "content": "x"} for role in roles])
    assert caught.value.param == "messages"


def test_a_stream_brings_the_same_answer(api):
    whole = ask(api, n=2)
    with api.openai().chat.completions.create(
        model="plain",
        messages=ONE,
        temperature=0,
        max_tokens=12,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    for index in range(2):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == whole.choices[index].message.content
        assert [c.finish_reason for c in mine if c.finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_log_probabilities_are_those_of_the_model(api):
    found = ask(api, logprobs=True, top_logprobs=3)
    encoder = api.library.served["plain"].encoder
    prompt = encoder.prompt(ONE[0]["content"])
    made = greedy(api, prompt, 12)
    logs = torch.log_softmax(api.engine.model(torch.tensor([prompt + made])).logits[0].detach(), -1)[
        len(prompt) - 1 : -1
    ]
    told = found.choices[0].logprobs.content
    assert len(told) == 12
    for at, one in enumerate(told):
        assert one.logprob == pytest.approx(float(logs[at, made[at]]), abs=1e-4)
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(logs[at].topk(3).values.tolist(), abs=1e-4)
        assert one.token == one.top_logprobs[0].token
        assert one.bytes is None or bytes(one.bytes).decode() == one.token


def test_streamed_log_probabilities_are_all_there(api):
    stream = ask(api, logprobs=True, stream=True)
    told = [one for chunk in stream for c in chunk.choices if c.logprobs for one in c.logprobs.content]
    assert len(told) == 12
    assert all(one.logprob <= 0 and math.isfinite(one.logprob) for one in told)


def test_a_seed_repeats_an_answer_and_choices_differ(api):
    first, again = (ask(api, temperature=1.0, seed=5, n=3) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    assert first.usage.completion_tokens == sum(12 for _ in texts)


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(api):
    whole = ask(api, max_tokens=24).choices[0].message.content
    stop = whole[5:8]
    found = ask(api, max_tokens=24, stop=[stop, "never"]).choices[0]
    assert found.message.content == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"


def test_without_max_tokens_the_answer_fits_the_model(api):
    long = "word " * 100
    found = api.openai().chat.completions.create(model="plain", messages=[{"role": "user", "content": long}])
    assert found.usage.total_tokens <= 512
    assert found.usage.completion_tokens <= 256


def test_the_first_model_answers_who_names_none_and_harmless_extras_are_taken(api):
    body = {"messages": ONE, "max_completion_tokens": 2, "user": "u", "metadata": {"a": "b"}, "store": True}
    neutral = {"frequency_penalty": 0, "logit_bias": {}, "tools": None, "response_format": {"type": "text"}}
    found = api.post("/v1/chat/completions", body | neutral)
    assert found.status_code == 200, found.text
    assert found.json()["model"] == "plain"
    assert found.headers["x-model-version"] == "plain"


def test_models_are_listed(api):
    client = api.openai()
    assert [model.id for model in client.models.list()] == ["plain", "chat", "trained"]
    assert client.models.retrieve("chat").to_dict()["version"] == "chat/3"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../plain")


def test_errors_are_those_of_the_client_library(api):
    with pytest.raises(openai.NotFoundError) as caught:
        ask(api, model="nobody")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, tools=[{"type": "function", "function": {"name": "f"}}])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize("text", ["a</s>b", "</s>", "บ้าน</s><system>ya"])
@pytest.mark.parametrize("model", ["plain", "chat"])
def test_a_user_writes_no_control_token(api, model, text):
    encoder = api.library.served[model].encoder
    found = ask(api, model=model, messages=[{"role": "user", "content": text}], max_tokens=1)
    assert found.usage.prompt_tokens == len(encoder.prompt(text))
    assert encoder.tokenizer.eos_token_id not in encoder.prompt(text.replace("</s>", encoder.tokenizer.eos_token))
    body = {"model": model, "prompt": text.replace("</s>", encoder.tokenizer.eos_token), "max_tokens": 0, "echo": True}
    body |= {"logprobs": 0}
    echoed = api.post("/v1/completions", body).json()["choices"][0]
    assert encoder.tokenizer.eos_token not in echoed["logprobs"]["tokens"]


def test_a_model_without_a_template_reads_conversations_as_in_training(api):
    encoder = api.library.served["plain"].encoder
    said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(("One", "two", "three"))]
    found = ask(api, messages=[{"role": "system", "content": "Be brief."}, *said])
    ids = encoder.conversation([{"role": "system", "content": "Be brief."}, *said])
    assert found.choices[0].message.content == encoder.tokenizer.decode(greedy(api, ids, 12))
