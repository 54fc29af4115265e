"""`/v1/completions` through the `openai` client, and lm-evaluation-harness' `local-completions` against `hf`."""

import numpy as np
import pytest
import torch

from ialign_ray.inference.scoring import score_continuations

TEXT = "Restore the original Javanese sentence."


def complete(api, prompt=TEXT, **more):
    arguments = {"model": "plain", "prompt": prompt, "temperature": 0, "max_tokens": 6} | more
    return api.openai().completions.create(**arguments)


def ids_of(api, text):
    return api.library.served["plain"].encoder.tokenizer(text)["input_ids"]


def test_texts_and_ids_one_or_several_ask_the_same(api):
    other = "Translate the following text"
    one, two = complete(api), complete(api, other)
    texts = [one.choices[0].text, two.choices[0].text]
    assert complete(api, ids_of(api, TEXT)).choices[0].text == texts[0]
    for several in ([TEXT, other], [ids_of(api, TEXT), ids_of(api, other)]):
        found = complete(api, several, n=2)
        assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
        assert [choice.text for choice in found.choices] == [texts[0], texts[0], texts[1], texts[1]]
        assert found.usage.prompt_tokens == len(ids_of(api, TEXT)) + len(ids_of(api, other))
        assert found.usage.completion_tokens == 24


def test_an_echo_tells_of_the_prompt_too(api):
    found = complete(api, echo=True, logprobs=2, max_tokens=3)
    choice, ids = found.choices[0], ids_of(api, TEXT)
    assert choice.text == TEXT + complete(api, max_tokens=3).choices[0].text
    told = choice.logprobs
    assert (
        len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == len(ids) + 3
    )
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    logs = torch.log_softmax(api.engine.model(torch.tensor([ids])).logits[0].detach(), -1)
    expected = [float(logs[at, token]) for at, token in enumerate(ids[1:])]
    assert told.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    assert all(2 <= len(top) <= 3 for top in told.top_logprobs[1 : len(ids)])
    assert told.text_offset[len(ids)] == len(TEXT)
    for token, offset in zip(told.tokens, told.text_offset):
        assert "\ufffd" in token or choice.text[offset : offset + len(token)] == token


@pytest.mark.parametrize("prompt", ["Ꮳ ñandú 漢字 — 🙂 end", "a漢", " two  spaces\n"])
def test_offsets_count_characters_whatever_their_tokens(api, prompt):
    told = complete(api, prompt, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    whole = [(t, o) for t, o in zip(told.tokens, told.text_offset) if "\ufffd" not in t]
    assert all(prompt[offset : offset + len(token)] == token for token, offset in whole)
    assert told.text_offset == sorted(told.text_offset)
    assert told.text_offset[-1] < len(prompt)


def test_zero_tokens_are_allowed_with_an_echo_alone(api):
    found = complete(api, echo=True, max_tokens=0, logprobs=1)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (TEXT, "length")
    assert found.usage.completion_tokens == 0
    assert complete(api, echo=True, max_tokens=0).choices[0].logprobs is None
    [chunk] = complete(api, echo=True, max_tokens=0, stream=True)
    assert chunk.choices[0].text == TEXT


def test_a_stream_brings_the_same_text_and_offsets(api):
    arguments = {"echo": True, "logprobs": 1, "n": 2}
    whole = complete(api, **arguments)
    chunks = list(complete(api, **arguments, stream=True, stream_options={"include_usage": True}))
    for index in range(2):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert "".join(c.text for c in mine) == whole.choices[index].text
        offsets = [offset for c in mine for offset in c.logprobs.text_offset]
        assert offsets == whole.choices[index].logprobs.text_offset
    assert chunks[-1].usage == whole.usage


def test_an_empty_prompt_begins_a_text(api):
    assert complete(api, "").usage.prompt_tokens == 1


@pytest.mark.slow
def test_lm_evaluation_harness_finds_the_scores_of_its_own_model(api, tiny_model_folder, tiny_model, tiny_tokenizer):
    """The same requests through `local-completions`, through `hf`, and through our scorer."""
    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    pairs = [(f"Sentence {k}: the price is", continuation) for k in range(4) for continuation in (" high", " low — 漢")]
    asked = [Instance("loglikelihood", {}, arguments=pair, idx=k) for k, pair in enumerate(pairs)]
    remote = LocalCompletionsAPI(
        model="plain",
        base_url=f"{api.url}/v1/completions",
        tokenizer=str(tiny_model_folder),
        tokenizer_backend="huggingface",
        batch_size=3,
        max_length=512,
    )
    local = HFLM(pretrained=tiny_model, tokenizer=tiny_tokenizer, batch_size=4, max_length=512)
    here, there = (model.loglikelihood(asked) for model in (local, remote))
    assert np.allclose([s for s, _ in there], [s for s, _ in here], atol=1e-3)
    assert [g for _, g in there] == [g for _, g in here]
    ids = [remote._encode_pair(*pair) for pair in pairs]
    ours = score_continuations(tiny_model, [prompt for prompt, _ in ids], [rest for _, rest in ids])
    assert np.allclose([s for s, _ in there], ours.log_prob, atol=1e-3)

    until = {"until": ["\n\n", "zz", "zzz", "zzzz", "zzzzz"], "max_gen_toks": 8}
    texts = [
        Instance("generate_until", {}, arguments=(pair[0], dict(until)), idx=k) for k, pair in enumerate(pairs[:3])
    ]
    assert remote.generate_until(texts) == local.generate_until(texts)


def test_an_answer_that_ends_at_once_still_tells_of_one_token(api):
    """The harness drops the last token of an answer, whatever it is; were there none, it would drop the prompt's."""
    end = api.engine.tokenizer.eos_token_id
    pairs = torch.cartesian_prod(torch.arange(512), torch.arange(8))
    with torch.no_grad():
        logits = torch.cat([api.engine.model(part).logits[:, -1] for part in pairs.split(512)])
    at = int((logits.argmax(-1) == end).nonzero()[0])
    ids, log_prob = pairs[at].tolist(), float(torch.log_softmax(logits[at], -1)[end])
    choice = complete(api, ids, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.text == api.engine.tokenizer.decode(ids)
    assert len(choice.logprobs.tokens) == 3
    assert choice.logprobs.token_logprobs[-1] == pytest.approx(log_prob, abs=1e-4)
