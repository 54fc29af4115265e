import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_scoring import build, some_prompts
from tiny_models import CAUSAL, seeded
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ialign_ray.errors import ConfigError, DataError, ModelError
from ialign_ray.inference.generation import generate


class Letters:
    """Ids as words; 1 ends, 0 pads."""

    eos_token_id, pad_token_id = 1, 0

    def decode(self, ids, *, skip_special_tokens, clean_up_tokenization_spaces=True):
        return " ".join(str(i) for i in ids if not (skip_special_tokens and i in (0, 1)))


def texts(*arguments, **settings):
    return [answer.text for answer in generate(*arguments, **settings)]


def naive(model, prompt, count):
    """Greedy, one unpadded row, no cache."""
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    new = []
    with torch.no_grad():
        for _ in range(count):
            if start is None:
                logits = model(torch.tensor([[*prompt, *new]])).logits
            else:
                inputs = {
                    "input_ids": torch.tensor([prompt]),
                    "decoder_input_ids": torch.tensor([[start, *new]]),
                }
                logits = model(**inputs).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] == 1:
                break
    return Letters().decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["llama", "bloom", "gpt2", "gemma2", "mamba", "t5", "bart"])
def test_equals_one_row_at_a_time(name):
    model, prompts = build(name), some_prompts((5, 9, 3, 9))
    if name == "bart":
        model.generation_config.forced_eos_token_id = None
        model.generation_config.eos_token_id = 1
    expected = [naive(model, prompt, 6) for prompt in prompts]
    for budget in (1, 30, 4096):
        assert texts(model, Letters(), prompts, max_new_tokens=6, max_batch_tokens=budget) == expected


FOLDERS = {
    "suppress_tokens": [7, 8, 9],
    "begin_suppress_tokens": [7],
    "bad_words_ids": [[7], [8, 9]],
    "stop_strings": ["a"],
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "forced_eos_token_id": 1,
    "exponential_decay_length_penalty": (1, 9.0),
    "sequence_bias": [[[7], -9.0]],
    "guidance_scale": 2.0,
    "min_new_tokens": 6,
    "num_beams": 3,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "do_sample": True,
    "temperature": 9.0,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_the_folder_sets_beside_the_ends_is_set_aside(name):
    model, prompts = build("llama"), some_prompts((5, 9, 3))
    expected = texts(model, Letters(), prompts, max_new_tokens=6)
    model.generation_config.update(**{name: FOLDERS[name]})
    before = model.generation_config
    assert texts(model, Letters(), prompts, max_new_tokens=6) == expected
    assert model.generation_config is before


def test_stops_at_the_end_of_sequence():
    model, prompts = build("llama"), some_prompts((5, 9, 3))
    whole = [text.split() for text in texts(model, Letters(), prompts, max_new_tokens=6)]
    end = int(whole[0][2])
    tokenizer = Letters()
    tokenizer.eos_token_id = end
    cut = [text.split() for text in texts(model, tokenizer, prompts, max_new_tokens=6)]
    assert cut == [row[: row.index(str(end))] if str(end) in row else row for row in whole]
    model.generation_config.eos_token_id = [end, 2]
    assert [text.split() for text in texts(model, Letters(), prompts, max_new_tokens=6)] == cut


def test_sampling_follows_the_seed_and_leaves_the_global_state():
    model, prompts = build("llama"), some_prompts((5, 9, 3))
    settings = {"max_new_tokens": 6, "temperature": 1.5, "top_p": 0.95}
    before = torch.random.get_rng_state()
    first, again, other = (texts(model, Letters(), prompts, seed=s, **settings) for s in (1, 1, 2))
    assert first == again != other
    assert torch.equal(before, torch.random.get_rng_state())
    texts(model, Letters(), prompts, **settings)
    assert not torch.equal(before, torch.random.get_rng_state())


def test_sampling_defaults_of_the_model_folder_are_not_used():
    model, prompts = build("llama"), some_prompts((5, 9, 3))
    expected = texts(model, Letters(), prompts, max_new_tokens=6)
    folder = model.generation_config
    folder.do_sample, folder.temperature, folder.repetition_penalty, folder.num_beams = True, 5.0, 9.0, 3
    assert texts(model, Letters(), prompts, max_new_tokens=6) == expected


def test_a_least_length_in_the_model_folder_is_not_used():
    """As BART's folder for summaries has one."""
    model, prompts = build("t5"), some_prompts((5, 9, 3))
    tokenizer = Letters()
    tokenizer.eos_token_id = int(texts(model, Letters(), prompts, max_new_tokens=6)[0].split()[1])
    expected = texts(model, tokenizer, prompts, max_new_tokens=6)
    assert len(expected[0].split()) < 2
    model.generation_config.min_length = 6
    assert texts(model, tokenizer, prompts, max_new_tokens=6) == expected


def test_peft_mode_and_progress():
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model, seen = get_peft_model(build("llama"), config).train(), []
    prompts = some_prompts((5, 9, 3))
    found = texts(model, Letters(), prompts, max_new_tokens=3, max_batch_tokens=1, progress=seen.append)
    assert model.training
    assert seen == [1, 2, 3]
    assert found == [naive(model.eval(), prompt, 3) for prompt in prompts]


def test_an_answer_tells_whether_it_was_cut():
    """Of the same model: once it may not end, once its second token is the end."""
    model, prompts = build("llama"), some_prompts((5,))
    tokenizer = Letters()
    whole = generate(model, tokenizer, prompts, max_new_tokens=6)[0]
    assert (whole.tokens, whole.ended, len(whole.text.split())) == (6, False, 6)
    tokenizer.eos_token_id = int(whole.text.split()[1])
    ended = generate(model, tokenizer, prompts, max_new_tokens=6)[0]
    assert (ended.text, ended.tokens, ended.ended) == (whole.text.split()[0], 1, True)


def test_what_is_refused():
    model = build("llama")
    assert texts(model, Letters(), []) == []
    with pytest.raises(DataError, match="prompt 1"):
        texts(model, Letters(), [[5], []], max_new_tokens=3)
    with pytest.raises(ModelError, match="41 positions"):
        texts(model, Letters(), some_prompts((37,)), max_new_tokens=4)
    for bad in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(ConfigError):
            texts(model, Letters(), [[5]], **bad)


def test_answers_end_at_the_turn_and_keep_their_spaces():
    words = ["<pad>", "</s>", "<end_of_turn>", "ça", "va", "?", "!"]
    core = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="##", cleanup=False)
    tokens = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    tokens.clean_up_tokenization_spaces = True

    model = seeded(CAUSAL["llama"])
    said = [3, 4, 5, 2, 6, 6]

    def generate_said(input_ids, generation_config, **_):
        ends = generation_config.eos_token_id
        stop = next((k for k, token in enumerate(said) if token in ends), len(said))
        return torch.cat([input_ids, torch.tensor([said[: stop + 1]])], dim=1)

    model.generate = generate_said
    [found] = generate(model, tokens, [[3]], max_new_tokens=6, ends={2})
    assert (found.text, found.tokens, found.ended) == ("ça va ?", 3, True)
