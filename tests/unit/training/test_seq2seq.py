"""Encoder-decoders through everything that causal models go through, in this process."""

import copy

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from test_loop import Kept, Lost, Setting, consumed, lose_at, planned, same, weights, without_times
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, MT5Config, T5Config

from ialign_ray.config import LoraSettings, ModelSettings, VocabularySettings, build_experiment
from ialign_ray.errors import ModelError
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.inference.generation import generate
from ialign_ray.inference.scoring import score_continuations
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.modeling.head import output_head
from ialign_ray.modeling.load import add_adapter, load_base, lora_targets, model_shape
from ialign_ray.storage import write_json
from ialign_ray.streaming.examples import local_stream
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.collate import collate
from ialign_ray.training.loss import logits_finish
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.runs import MODEL, RECORD, save_run, start_record
from ialign_ray.training.step import train_step
from ialign_ray.workflows.evaluate import evaluate
from ialign_ray.workflows.export import export_model
from ialign_ray.workflows.predict import answer, open_model
from ialign_ray.workflows.validate import validate

pytestmark = pytest.mark.slow

CPU, QUIET = torch.device("cpu"), Console(quiet=True)
FAMILIES = ("mt5", "t5", "bart")
V1_1 = "t5 1.1"
"""T5's code with mT5's layers and no scale before the head: Flan-T5, Aya-101."""


def special(tokenizer, template):
    """A copy that puts special tokens around a text, as T5's and BART's do."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"bos_token": "<s>"})
    tokens = [(t, own.convert_tokens_to_ids(t)) for t in ("<s>", "<eos>")]
    own.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    return own


def model_of(family, tokenizer):
    eos, pad, size = tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)
    ids = {"vocab_size": size, "eos_token_id": eos, "pad_token_id": pad}
    if family == "bart":
        side = {"layers": 2, "attention_heads": 2, "ffn_dim": 64}
        sides = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in side.items()}
        start = {"decoder_start_token_id": eos, "bos_token_id": tokenizer.bos_token_id, "forced_eos_token_id": eos}
        return AutoModelForSeq2SeqLM.from_config(BartConfig(d_model=32, init_std=0.2, **sides, **start, **ids))
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": pad}
    if family == "t5":
        return AutoModelForSeq2SeqLM.from_config(T5Config(**shape, **ids))
    kind = MT5Config if family == "mt5" else T5Config
    model = AutoModelForSeq2SeqLM.from_config(
        kind(**shape, **ids, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    )
    model.lm_head.weight = nn.Parameter(torch.randn(size, 32) * 0.2)  # a head of its own, as on the hub
    return model


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tiny_tokenizer):
    """A model folder of each family."""
    made = {}
    for family in (*FAMILIES, V1_1):
        made[family] = tmp_path_factory.mktemp("seq2seq") / family
        tokenizer = special(tiny_tokenizer, "<s> $A <eos>" if family == "bart" else "$A <eos>")
        torch.manual_seed(0)
        model_of(family, tokenizer).save_pretrained(made[family])
        tokenizer.save_pretrained(made[family])
    return made


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def data(experiment_data, folders, family):
    experiment_data["model"]["id"] = str(folders[family])
    return experiment_data


@pytest.fixture(scope="session")
def prepared():
    return {}


@pytest.fixture(params=["lora", "full"])
def setting(request, data, tmp_path, prepared):
    """Prepared once for all tests."""
    key = (data["model"]["id"], request.param)
    if key not in prepared:
        prepared[key] = Setting(data, tmp_path, request.param)
    return prepared[key]


full = pytest.mark.parametrize("setting", ["full"], indirect=True)


def first_batch(setting):
    [examples, *_] = local_stream(setting.source, 0)
    return examples


def step(model, examples, tokens):
    kept, pad = Kept(model), model.config.pad_token_id
    stats = train_step(
        model, kept, examples, step=0, seed=0, layout=PassLayout.of(model, tokens, pad), clip_norm=1e9, device=CPU
    )
    return stats, kept.gradients


def by_transformers(model, examples):
    """Loss and gradients of one padded forward with `labels=`, as transformers computes them."""

    def block(rows, fill):
        return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=fill)

    mask = block([[1] * len(e.prompt) for e in examples], 0)
    ids, labels = block([e.prompt for e in examples], 0), block([e.target for e in examples], -100)
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    return loss.item(), gradients


def shaken(model):
    """In float64, without dropout, and with an adapter that does something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    return model.double().eval()


def test_the_gradient_is_that_of_transformers_whatever_the_micro_batches(setting):
    model, examples = shaken(setting.model()), first_batch(setting)
    loss, expected = by_transformers(model, examples)
    for tokens in (100_000, 150, 16):
        stats, gradients = step(model, examples, tokens)
        assert stats.loss == pytest.approx(loss, abs=1e-6)
        assert len(gradients) == len(expected)
        for a, b in zip(gradients, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    assert (
        stats.counts["padded"] == stats.counts["tokens"] == sum(map(len, examples))
    )  # one row a batch: nothing is padded
    assert stats.counts["target_tokens"] == sum(len(e.target) for e in examples)


@full
def test_the_head_runs_on_target_positions_only(setting):
    model, examples, rows = setting.model(), first_batch(setting), []
    logits_finish(model)
    head = output_head(model)
    own = head.forward

    def watched(hidden):
        rows.append(hidden.shape[:-1].numel())
        return own(hidden)

    head.forward = watched
    stats, _ = step(model, examples, 100_000)
    assert sum(n for n in rows if n > 1) == stats.counts["target_tokens"]
    assert rows.count(1) == len(rows) / 2  # once a pass, to tell how wide the vocabulary is and what is trained


@full
def test_a_batch_is_prompts_beside_shifted_targets(setting):
    model, examples = setting.model(), first_batch(setting)
    start, pad = decoder_start(model), model.config.pad_token_id
    inputs, positions, labels = collate(examples, pad, CPU, start)
    assert inputs["attention_mask"].sum(1).tolist() == [len(e.prompt) for e in examples]
    decoder = inputs["decoder_input_ids"]
    assert decoder[:, 0].tolist() == [start] * len(examples)
    assert labels.tolist() == [t for e in examples for t in e.target]
    followed = nn.functional.pad(decoder, (0, 1), value=pad)[:, 1:].flatten()[positions]
    ends = torch.tensor([len(e.target) for e in examples]).cumsum(0) - 1
    inside = torch.ones_like(labels, dtype=torch.bool).index_fill(0, ends, False)
    assert torch.equal(followed[inside], labels[inside])
    assert labels[ends].tolist() == [setting.prepared.encoder.tokenizer.eos_token_id] * len(examples)


@full
def test_prompts_and_targets_have_the_tokenizers_own_special_tokens(setting, family):
    encoder = setting.prepared.encoder
    before = "<s>" if family == "bart" else ""
    tokenizer, (prompt, target) = encoder.tokenizer, encoder.encode("Say it.", "The cat")
    assert tokenizer.decode(prompt) == before + "Say it.<eos>"
    assert tokenizer.decode(target) == before + "The cat<eos>"
    assert encoder.label("The cat") == target[:-1]
    limit = len(target)
    for room, fits in ((limit, True), (limit - 1, False)):
        tight = Encoder.of(tokenizer, "auto", "\n", 99, room, seq2seq=True)
        assert tight.targets_fit(["The cat"]) == [fits] == [tight.fits("Say it.", "The cat")]


@full
def test_a_chat_template_is_used_where_there_is_one(setting):
    tokenizer = copy.deepcopy(setting.prepared.encoder.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}U: {{ m.content }}{% endfor %} A:"
    encoder = Encoder.of(tokenizer, "auto", "\n", seq2seq=True)
    assert tokenizer.decode(encoder.prompt("Say it.")) == "U: Say it. A:"


@full
def test_training_and_scoring_see_the_same(setting):
    model, examples = setting.model().eval(), first_batch(setting)
    stats, _ = step(model, examples, 100_000)
    scores = score_continuations(model, [e.prompt for e in examples], [e.target for e in examples])
    assert -scores.log_prob.sum() / scores.tokens.sum() == pytest.approx(stats.loss, abs=1e-5)


@full
@pytest.mark.parametrize("family", ["bart"], indirect=True)
def test_each_side_has_all_positions_when_scored(setting):
    model, encoder = setting.model(), setting.prepared.encoder
    model.config.max_position_embeddings = 16
    scorer, text = Scorer(model, encoder, 999), "The cat sees the rice. " * 9
    nats, tokens = scorer.nats([text, text[:4]], ["The cat", text])
    assert tokens.tolist() == [len(encoder.target("The cat")), 15]
    whole = score_continuations(model, [encoder.prompt(text)[-16:]], [encoder.target("The cat")])
    assert nats[0] == pytest.approx(-whole.log_prob[0], abs=1e-4)


@full
@pytest.mark.parametrize("family", ["mt5", "bart"], indirect=True)
def test_what_was_learned_is_generated(setting):
    model, tokenizer = setting.model().train(), setting.prepared.encoder.tokenizer
    examples = sorted(first_batch(setting), key=lambda e: len(e.target))[:2]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for number in range(70):
        stats = train_step(
            model, optimizer, examples, step=number, seed=0, clip_norm=1.0,
            layout=PassLayout.of(model, 999, tokenizer.pad_token_id), device=CPU,
        )  # fmt: skip
    assert stats.loss < 0.3
    texts = [a.text for a in generate(model, tokenizer, [e.prompt for e in examples], max_new_tokens=64)]
    assert texts == [tokenizer.decode(e.target, skip_special_tokens=True) for e in examples]


def test_a_resumed_run_ends_with_the_same_bits(setting):
    undisturbed, _ = setting.run("whole")
    assert not same(weights(undisturbed), weights(setting.model()))
    with pytest.raises(Lost):
        setting.run("broken", lose_at(5))
    resumed, start = setting.run("broken")
    assert start == 3
    assert same(weights(undisturbed), weights(resumed))
    whole, broken = setting.folder / "whole", setting.folder / "broken"
    assert consumed(broken) == consumed(whole) == planned(setting)
    assert without_times(broken) == without_times(whole)


def finished(setting):
    """(run folder, trained model) as a worker of `ialign align` leaves them."""
    run = setting.folder / "run"
    model, _ = setting.run("run")
    write_json(run / RECORD, start_record(setting.experiment, "run", setting.prepared, "f"))
    save_run(setting.experiment, run, model, setting.prepared.encoder.tokenizer)
    return run, model.eval()


def logits(model, tokenizer):
    ids = tokenizer(["The cat sees the rice.", "house"], padding=True, return_tensors="pt")
    ids.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**ids, decoder_input_ids=torch.tensor([[1, 5, 6], [1, 7, 8]])).logits


@pytest.mark.parametrize(
    ("family", "setting"),
    [("mt5", "lora"), ("mt5", "full"), ("t5", "lora"), ("bart", "lora"), ("bart", "full"), (V1_1, "lora")],
    indirect=True,
)
def test_a_run_is_scored_exported_and_asked(setting):
    run, model = finished(setting)
    lora = setting.experiment.model.tuning == "lora"
    tokenizer = AutoTokenizer.from_pretrained(run / MODEL)
    expected = logits(model, tokenizer)
    base = AutoModelForSeq2SeqLM.from_pretrained(setting.experiment.model.id if lora else run / MODEL)
    others = PeftModel.from_pretrained(base, run / MODEL) if lora else base
    torch.testing.assert_close(logits(others.eval(), tokenizer), expected)
    assert not torch.allclose(logits(load_base(setting.experiment.model), tokenizer), expected, atol=1e-3)
    merged = AutoModelForSeq2SeqLM.from_pretrained(export_model(run, None, merged=True)).eval()
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-4, rtol=1e-4)
    card = (run / MODEL / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForSeq2SeqLM" in card
    assert "AutoModelForCausalLM" not in card
    assert isinstance(answer("Say the number 3 in words.", run, None, 8, 0.0), str)
    torch.testing.assert_close(logits(open_model(run, None)[0], tokenizer), expected)
    if setting.experiment.model.id.endswith(("mt5", "bart")) and lora:  # takes a second
        assert evaluate(setting.experiment, [run], console=QUIET)


def test_the_preview_checks_ranks_without_weights(data):
    validate(build_experiment(data, "x"), QUIET)
    data["model"]["lora"] = {"rank": 33}
    with pytest.raises(ModelError, match=r"model\.lora\.rank is 33, but layer .* at most 32"):
        validate(build_experiment(data, "x"), QUIET)


@full
def test_all_linear_is_every_layer_but_the_head(setting):
    settings, lora = setting.experiment.model, LoraSettings(rank=2)
    targets = lora_targets(load_base(settings), lora)
    assert set(targets) == set(lora_targets(model_shape(settings), lora))
    adapted = add_adapter(load_base(settings), lora, 0)
    names = {n.removeprefix("base_model.model.").rpartition(".lora_A")[0] for n, _ in adapted.named_parameters()}
    assert names - {""} == set(targets)
    assert not any("lm_head" in name for name in targets)
    assert adapted.peft_config["default"].task_type == "SEQ_2_SEQ_LM"


def test_bf16_is_near_fp32(setting):
    examples = first_batch(setting)
    exact, _ = step(setting.model().eval(), examples, 150)
    half = setting.experiment.model.model_copy(update={"precision": "bf16"})
    model = load_base(half)
    if half.tuning == "lora":
        assert next(model.parameters()).dtype == torch.bfloat16
        model = add_adapter(model, half.lora, 0)
    with torch.autocast("cpu", torch.bfloat16):
        stats, gradients = step(model.eval(), examples, 150)
    assert stats.loss == pytest.approx(exact.loss, rel=0.02)
    assert {g.dtype for g in gradients} == {torch.float32}


@pytest.mark.parametrize("family", ["t5"], indirect=True)
def test_new_pieces_are_refused(data, family):
    data["model"]["vocabulary"] = VocabularySettings().model_dump()
    with pytest.raises(ModelError, match=r"model\.vocabulary: .* is an encoder-decoder") as caught:
        validate(build_experiment(data, "x"), QUIET)
    assert "\n" not in str(caught.value)


def test_a_head_of_its_own_stays_apart(folders):
    model = load_base(ModelSettings(id=str(folders["mt5"])))
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
