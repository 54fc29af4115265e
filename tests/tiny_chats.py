"""Small tokenizers of several kinds, and chat templates in the style of several families."""

import functools

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Anak itu makan nasi di rumah.",
    "The child eats rice.",
    "บ้านนี้สวยมาก",
    "ребёнок ест рис",
    "السلام عليكم",
    "good bad",
] * 20
MARKS = ["<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
MARKS += ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "<s>{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% set messages = messages[1:] %}{% endif %}"
    "<|eot_id|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>"
    "{% else %}{{ raise_exception('no system') }}{% endif %}"
    "{% endfor %}"
)
HYBRID = (  # an empty block before the last answer, as it has no reasoning, and where thinking is off
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ALWAYS = CHATML.replace("assistant\n", "assistant\n<think>\n")
FAMILIES = {"chatml": CHATML, "gemma": GEMMA, "llama3": LLAMA3, "llama2": LLAMA2, "hybrid": HYBRID, "always": ALWAYS}


@functools.lru_cache
def _byte_level():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    )
    return core.to_str()


@functools.lru_cache
def _pieces():
    """BPE with byte fallback and a space before each text, as SentencePiece makes it."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split(Regex("▁[^▁]*"), "isolated")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    core.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=600, special_tokens=[*MARKS, *fallback], show_progress=False)
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return core.to_str()


@functools.lru_cache
def _unigram():
    """Unigram over NFKC text, whose vocabulary contains the special tokens as pieces (T5)."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    core.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=150, special_tokens=MARKS, unk_token="<unk>", show_progress=False)
    )
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return core.to_str()


KINDS = {"byte-level": _byte_level, "pieces": _pieces, "unigram": _unigram}


def tokenizer(kind="byte-level", template=None, **names):
    """A fresh tokenizer of a kind, with a template of a family or its text."""
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"} | names
    found = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(KINDS[kind]()), **named)
    found.chat_template = FAMILIES.get(template, template)
    return found


def turns(*texts, system=None):
    """Turns of user and assistant by turns, after system text if there is any."""
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(texts)]
