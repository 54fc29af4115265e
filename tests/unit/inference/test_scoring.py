import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import COMMON, seeded
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
)

from ialign_ray.errors import ConfigError, DataError, ModelError
from ialign_ray.inference.batching import takes_left_padding, token_batches
from ialign_ray.inference.calibration import label_values, prior
from ialign_ray.inference.label_trees import label_tree
from ialign_ray.inference.scoring import LabelScores, score_continuations, score_labels
from ialign_ray.inference.shared_context import context_batches, shared_contexts

torch.set_num_threads(1)
SHORT = COMMON | {"max_position_embeddings": 40}
SMALL = {"vocab_size": 61, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "pad_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(**SHORT),
    "neox": GPTNeoXConfig(**SHORT),
    "qwen2": Qwen2Config(**SHORT, num_key_value_heads=2),
    # A window shorter than the prompts: the cache forgets their beginning.
    "gemma2": Gemma2Config(**SHORT, num_key_value_heads=2, head_dim=8, sliding_window=4),
    "bloom": BloomConfig(hidden_size=32, **SMALL),
    "gpt2": GPT2Config(n_embd=32, n_positions=40, **SMALL),
    "mpt": MptConfig(
        d_model=32,
        n_heads=4,
        n_layers=2,
        vocab_size=61,
        max_seq_len=40,
        initializer_range=0.3,
        pad_token_id=0,
    ),
    "opt": OPTConfig(
        vocab_size=61,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=40,
        word_embed_proj_dim=32,
        init_std=0.3,
    ),
    # Recurrent: no cache to share, every label gets its own pass.
    "mamba": MambaConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
    ),
}
# Single tokens, several tokens, a label that begins another, labels that begin alike.
LABELS = [[7], [8, 9, 10], [8, 9], [8], [8, 9, 11, 12], [13, 14]]


def build(name):
    torch.manual_seed(0)
    if name == "t5":
        config = T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        config.decoder_start_token_id, config.initializer_factor = 0, 3.0
        return T5ForConditionalGeneration(config).eval()
    if name == "bart":
        size = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in SIDE.items()}
        config = BartConfig(vocab_size=61, d_model=32, max_position_embeddings=40, init_std=0.3, **size)
        return BartForConditionalGeneration(config).eval()
    return seeded(CONFIGS[name]).eval()


SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}


def some_prompts(lengths=(5, 11, 3, 11, 7, 1), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 61, (n,), generator=generator).tolist() for n in lengths]


def naive(model, prompt, label):
    """One unpadded forward for one label."""
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            decoder = torch.tensor([[start, *label[:-1]]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder).logits[0]
        else:
            logits = model(torch.tensor([[*prompt, *label[:-1]]])).logits[0, len(prompt) - 1 :]
    return logits.log_softmax(-1)[torch.arange(len(label)), torch.tensor(label)].sum().item()


def naive_table(model, prompts, labels):
    return np.array([[naive(model, prompt, label) for label in labels] for prompt in prompts])


@pytest.mark.parametrize("name", [*CONFIGS, "t5", "bart"])
def test_equals_a_forward_per_label_whatever_the_batch(name):
    model, prompts = build(name), some_prompts()
    expected = naive_table(model, prompts, LABELS)
    assert np.ptp(expected) > 1
    # sums of -100 nats: the last places of float32 depend on the processor (1.1e-4 seen on one)
    for budget in (1, 24, 4096):
        got = score_labels(model, prompts, LABELS, max_batch_tokens=budget)
        np.testing.assert_allclose(got.log_prob, expected, atol=1e-4, rtol=5e-6)
        each = score_continuations(model, prompts, [LABELS[4]] * len(prompts), max_batch_tokens=budget)
        np.testing.assert_allclose(each.log_prob, expected[:, 4], atol=1e-4, rtol=5e-6)
    assert got.tokens.tolist() == [[1, 3, 2, 1, 4, 2]] * len(prompts)
    assert each.tokens.tolist() == [4] * len(prompts)


@pytest.mark.parametrize("name", [*CONFIGS, "t5"])
def test_prompts_with_a_common_beginning_get_the_same_scores(name):
    long, other = some_prompts((20, 24), seed=2)
    ends = some_prompts((1, 5, 3, 2, 9), seed=3)
    prompts = [
        [*long, *ends[0]],
        ends[4],
        [*other, *ends[1]],
        [*long, *ends[2]],
        [*other[:18], *ends[3]],
        long,
        [*long],
    ]
    model = build(name)
    sets = [LABELS, LABELS[::-1]] * 3 + [LABELS]
    expected = np.array([[naive(model, p, label) for label in one] for p, one in zip(prompts, sets)])
    for budget in (1, 60, 4096):
        got = score_labels(model, prompts, sets, max_batch_tokens=budget)
        np.testing.assert_allclose(got.log_prob, expected, atol=2e-4, rtol=5e-6)


def test_a_common_beginning_is_read_once():
    model, read = build("llama"), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _m, args: read.append(args[0].numel()))
    first, second = some_prompts((24, 30), seed=2)
    prompts = [[*first, 9, k, 8] for k in range(3, 6)] + [[*second, 9, k] for k in range(3, 6)]
    score_labels(model, prompts, [[7], [8]])
    assert read == [2 * 31, 6 * 2]
    done = []
    score_labels(model, prompts, [[7], [8]], progress=done.append)
    assert done[-1] == 6


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), max_size=12), st.integers(2, 5))
def test_groups_share_what_they_say(prompts, most):
    groups = shared_contexts(prompts, most)
    rows = [row for group in groups for row in group.rows]
    assert len(rows) == len(set(rows))
    for group in groups:
        assert 2 <= len(group.rows) <= most
        assert 16 <= group.length < min(len(prompts[row]) for row in group.rows)
        assert len({tuple(prompts[row][: group.length]) for row in group.rows}) == 1
    batches = list(context_batches(groups, prompts, 50, 4))
    assert sorted((g for batch in batches for g in batch), key=str) == sorted(groups, key=str)
    for batch in batches:
        longest = max(len(prompts[row]) - g.length for g in batch for row in g.rows)
        assert len(batch) == 1 or sum(len(g.rows) for g in batch) * longest <= 50


def test_passages_are_groups_though_all_prompts_begin_with_one_instruction():
    start, *passages = some_prompts((20, 40, 40, 40), seed=4)
    prompts = [[*start, *passage, q, q] for passage in passages[:2] for q in range(3)] + [[*start, *passages[2], 1]]
    assert sorted(g.rows for g in shared_contexts(prompts, 32)) == [(0, 1, 2), (3, 4, 5)]


def test_which_architectures_share_the_prefix():
    shared = {name for name in CONFIGS if takes_left_padding(build(name))}
    assert shared == set(CONFIGS) - {"mamba"}


def test_layers_that_keep_no_plain_cache_do_not_share_the_prefix():
    model = build("llama")
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not takes_left_padding(model)


def test_single_token_labels_need_one_forward_a_batch():
    model, calls = build("llama"), []
    model.register_forward_hook(lambda *_: calls.append(1))
    score_labels(model, some_prompts(), [[7], [8], [9]])
    assert len(calls) == 1
    score_labels(model, some_prompts(), [[7], [8, 9, 10], [8, 9, 11]])
    assert len(calls) == 3


def test_the_encoder_runs_once_a_prompt():
    model, rows = build("t5"), []
    model.get_encoder().register_forward_hook(lambda _m, _a, out: rows.append(len(out.last_hidden_state)))
    score_labels(model, some_prompts(), LABELS)
    assert sum(rows) == 6


def test_label_sets_of_their_own():
    model, prompts = build("llama"), some_prompts()
    sets = [[[i + 3], [i + 4, 5, 6]] if i % 2 else [[9, 9], [9, 10]] for i in range(len(prompts))]
    expected = np.array([[naive(model, p, label) for label in one] for p, one in zip(prompts, sets)])
    got = score_labels(model, prompts, sets, max_batch_tokens=30)
    np.testing.assert_allclose(got.log_prob, expected, atol=1e-4, rtol=5e-6)
    assert got.tokens[:2].tolist() == [[2, 2], [1, 3]]


@settings(max_examples=10, deadline=None)
@given(
    labels=st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, max_size=6),
    budget=st.integers(1, 64),
)
def test_any_label_set(labels, budget):
    model, prompts = build("llama"), some_prompts((4, 2))
    got = score_labels(model, prompts, labels, max_batch_tokens=budget)
    np.testing.assert_allclose(got.log_prob, naive_table(model, prompts, labels), atol=1e-4)


@given(labels=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8))
def test_label_tree(labels):
    tree = label_tree(tuple(labels))
    for label, home in zip(labels, tree.home):
        assert tree.stems[home][: len(label) - 1] == label[:-1]
    for stem in tree.stems:
        assert not any(other != stem and other[: len(stem)] == stem for other in tree.stems)
        assert stem in {label[:-1] for label in labels}


@given(lengths=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 200), same=st.booleans())
def test_token_batches(lengths, budget, same):
    batches = list(token_batches(lengths, budget, same_length=same))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        assert not same or len({lengths[i] for i in batch}) == 1


def test_peft():
    torch.manual_seed(0)
    plain, prompts = build("llama"), some_prompts()
    before = score_labels(plain, prompts, LABELS).log_prob
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(plain, config).eval()
    expected = naive_table(model, prompts, LABELS)
    np.testing.assert_allclose(score_labels(model, prompts, LABELS).log_prob, expected, atol=1e-4)
    assert np.abs(expected - before).max() > 0.1


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_model_comes_back_as_it_was(name):
    model = build(name).train()
    frozen = next(m for m in model.modules() if isinstance(m, nn.Embedding)).eval()
    score_labels(model, some_prompts(), LABELS)
    assert model.training
    assert not frozen.training
    assert all(m.training for m in model.modules() if m is not frozen)
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_off():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(n_embd=32, n_positions=40, embd_pdrop=0.5, resid_pdrop=0.5, **SMALL)
    ).train()
    first, second = (score_labels(model, some_prompts(), LABELS).log_prob for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_progress_counts_finished_rows():
    for name in ("llama", "mamba", "t5"):
        model, seen = build(name), []
        score_labels(model, some_prompts(), [[3], [4, 5]], max_batch_tokens=12, progress=seen.append)
        assert seen == sorted(seen)
        assert seen[-1] == 6
        assert len(seen) > 1


def test_no_prompts():
    model = build("llama")
    assert score_labels(model, [], LABELS).log_prob.shape == (0, 6)
    assert score_labels(model, [], []).log_prob.shape == (0, 0)
    assert score_continuations(model, [], []).log_prob.shape == (0,)


def test_what_is_refused():
    model, prompts = build("llama"), some_prompts()
    with pytest.raises(DataError, match=r"label 1 .* no tokens"):
        score_labels(model, prompts, [[7], []])
    with pytest.raises(DataError, match="no tokens"):
        score_labels(model, prompts, [[], [7]])
    with pytest.raises(DataError, match="label set 0 is empty"):
        score_labels(model, prompts, [])
    with pytest.raises(DataError, match="label set 1 is empty"):
        score_labels(model, prompts[:2], [[[7]], []])
    with pytest.raises(DataError, match="differ in size"):
        score_labels(model, prompts[:2], [[[7]], [[7], [8]]])
    with pytest.raises(DataError, match="6 prompts have 1 label sets"):
        score_labels(model, prompts, [[[7]]])
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        score_labels(model, [[5], []], LABELS)
    with pytest.raises(DataError, match="no tokens"):
        score_continuations(model, [[5]], [[]])
    with pytest.raises(DataError, match="1 prompts have 2"):
        score_continuations(model, [[5]], [[5], [6]])


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart"])
def test_the_longest_prompt_that_fits(name):
    model = build(name)
    fits = 40 if name == "bart" else 38
    prompts = some_prompts((fits, 3))
    expected = naive_table(model, prompts, LABELS[:2])
    np.testing.assert_allclose(score_labels(model, prompts, LABELS[:2]).log_prob, expected, atol=1e-4)
    with pytest.raises(ModelError, match=r"prompt 0 needs 41 positions .* has 40"):
        score_labels(model, some_prompts((fits + 1,)), LABELS[:2])


def test_scorers():
    scores = LabelScores(np.log([[0.2, 0.1], [0.3, 0.25]]), np.array([[1, 2], [1, 2]]))
    free = LabelScores(np.log([[0.3, 0.1], [0.06, 0.04]]), np.array([[1, 2], [1, 2]]))
    np.testing.assert_array_equal(label_values(scores), scores.log_prob)
    np.testing.assert_allclose(label_values(scores, "mean")[0], [np.log(0.2), np.log(0.1) / 2])
    # Normalised over the labels .75/.25 and .6/.4, on average .675/.325.
    np.testing.assert_allclose(np.exp(prior(free.log_prob)), [0.675, 0.325])
    calibrated = label_values(scores, "calibrated", free)
    np.testing.assert_allclose(np.exp(calibrated), [[0.2 / 0.675, 0.1 / 0.325], [0.3 / 0.675, 0.25 / 0.325]])
    assert calibrated.argmax(1).tolist() == [1, 1]


def test_one_content_free_input_ranks_as_pmi():
    model, prompts = build("llama"), some_prompts()
    scores, free = (score_labels(model, rows, LABELS) for rows in (prompts, [[5, 6]]))
    pmi = scores.log_prob - free.log_prob
    difference = label_values(scores, "calibrated", free) - pmi
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:1, :1], difference.shape))


def test_scorers_refuse():
    scores = LabelScores(np.zeros((2, 3)), np.ones((2, 3), dtype=np.int64))
    with pytest.raises(DataError, match="content-free"):
        label_values(scores, "calibrated")
    with pytest.raises(DataError, match="2 labels"):
        label_values(scores, "calibrated", LabelScores(np.zeros((1, 2)), np.ones((1, 2), dtype=np.int64)))
    with pytest.raises(ConfigError, match="median"):
        label_values(scores, "median")
