"""Models of other kinds through the same routes: an adapter, and an encoder-decoder."""

import asyncio
import copy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from serving_app import error_of, running
from serving_models import adapter_folder

from ialign_ray.inference.generation import generate
from ialign_ray.inference.scoring import score_labels
from ialign_ray.serving.engine.engine import TransformersEngine
from ialign_ray.serving.engine.schedule import Limits
from ialign_ray.serving.protocol import Served
from ialign_ray.tokens.encode import Encoder

CHAT, TEXT = "/v1/chat/completions", "Say the number 4 in words."
ASK = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 9, "temperature": 0}
LABELS = [" good", " not so bad"]


def test_an_adapter_answers_scores_and_reads_as_itself(tiny_model, tiny_tokenizer, tmp_path):
    model = copy.deepcopy(tiny_model)
    folder = adapter_folder(tmp_path / "a", model, 3)
    adapted = PeftModel.from_pretrained(copy.deepcopy(tiny_model), folder)
    with running(model, tiny_tokenizer) as api:
        asyncio.run(api.engine.load("mine/3", folder))
        plain = api.library.served["plain"]
        api.library.served["mine"] = Served("mine/3", api.engine, "mine/3", plain.encoder, 512)
        prompt = plain.encoder.prompt(TEXT)
        answers = [api.post(CHAT, ASK | {"model": name}) for name in ("plain", "mine")]
        score = api.post("/v1/score", {"model": "mine", "prompt": TEXT, "continuations": LABELS}).json()
        read = {"model": "mine", "prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
        told = api.post("/v1/completions", read).json()["choices"][0]["logprobs"]["token_logprobs"]
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert texts == [generate(m, tiny_tokenizer, [prompt], max_new_tokens=9)[0].text for m in (tiny_model, adapted)]
    assert texts[0] != texts[1]
    assert [answer.headers["x-model-version"] for answer in answers] == ["plain", "mine/3"]
    expected = score_labels(adapted, [prompt], [plain.encoder.label(label) for label in LABELS]).log_prob[0]
    assert [one["log_prob"] for one in score["data"]] == pytest.approx(expected.tolist(), abs=1e-3)
    with torch.no_grad():
        logs = torch.log_softmax(adapted(torch.tensor([prompt])).logits[0], -1)
    assert told[1:] == pytest.approx([float(logs[at, token]) for at, token in enumerate(prompt[1:])], abs=1e-3)


def test_another_base_of_the_same_name_has_a_prior_of_its_own(tiny_model, tiny_tokenizer):
    """`base` stays `base` when the champion moves to a version on another one."""
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for weights in other.parameters():
            weights.add_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    engine = TransformersEngine(other, tiny_tokenizer, Limits(4, 4096))
    body = {"model": "base", "texts": [TEXT], "labels": LABELS, "prompt": "{text} So?", "scorer": "calibrated"}
    with running(tiny_model, tiny_tokenizer) as api:
        plain = api.library.served["plain"]
        api.library.served |= {"base": replace(plain, id="base"), "other": replace(plain, id="other", engine=engine)}
        moved = replace(plain, id="base", engine=engine)
        expected = api.post("/v1/classify", body | {"model": "other"}).json()["data"]
        before = api.post("/v1/classify", body).json()["data"]
        api.library.served["base"] = moved
        after = api.post("/v1/classify", body).json()["data"]
    asyncio.run(engine.close(0))
    assert before != expected
    assert after == expected


@pytest.fixture(scope="module")
def t5(tiny_tokenizer):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config).eval()


def test_an_encoder_decoder_is_asked_without_separator_and_echoes_no_scores(t5, tiny_model, tiny_tokenizer):
    encoder = Encoder.of(tiny_tokenizer, "auto", "\n", seq2seq=True)
    engine = TransformersEngine(t5, tiny_tokenizer, Limits(4, 4096))
    with running(tiny_model, tiny_tokenizer, t5=Served("t5", engine, None, encoder, None)) as api:
        found = api.post(CHAT, ASK | {"model": "t5", "logprobs": True}).json()
        score = api.post("/v1/score", {"model": "t5", "prompt": TEXT, "continuations": LABELS}).json()
        labels = {"model": "t5", "texts": [TEXT], "labels": ["yes", "no"], "prompt": "{text} So?", "scorer": "sum"}
        assert api.post("/v1/classify", labels).status_code == 200
        echo = {"model": "t5", "prompt": TEXT, "echo": True, "max_tokens": 3, "temperature": 0}
        assert api.post("/v1/completions", echo).json()["choices"][0]["text"].startswith(TEXT)
        assert error_of(api.post("/v1/completions", echo | {"logprobs": 1}), 400)["param"] == "echo"
    asyncio.run(engine.close(0))
    prompt = encoder.prompt(TEXT)
    assert found["choices"][0]["message"]["content"] == generate(t5, tiny_tokenizer, [prompt], max_new_tokens=9)[0].text
    assert len(found["choices"][0]["logprobs"]["content"]) == found["usage"]["completion_tokens"]
    expected = score_labels(t5, [prompt], [encoder.label(label) for label in LABELS]).log_prob[0]
    assert [one["log_prob"] for one in score["data"]] == pytest.approx(expected.tolist(), abs=1e-3)
