"""Vocabulary extension: new pieces for new languages, with almost unchanged tokenisation of old text.

The pieces come from continued byte-pair encoding: the texts are split by the old tokenizer, each old piece is treated
as one letter, and `tokenizers` learns merges over those letters, never across words. In a BPE tokenizer they are
appended after all old merges, so text is first segmented as before and then joined where a new merge applies. In a
Unigram tokenizer a new piece scores slightly more than its two halves, which has the same effect.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch

from ialign_ray.config import VocabularySettings
from ialign_ray.errors import ModelError

_FIRST = 0x10000
"""Code point of the letter for token 0: above it are a million code points without surrogates or white space."""
_GAIN = 1e-6
"""Score of a Unigram piece over its halves: enough to win, too little to move other boundaries."""
_APART = re.compile(r"""<0x[0-9A-F]{2}>|.*[0-9!"#$%&()*+,./:;<=>?@\[\\\]^_`{|}~].*""", re.DOTALL)
"""Pieces that are never joined: bytes, which only decode alone, and digits and punctuation, which old languages
share."""
_BATCH = 1000


@dataclass(frozen=True)
class Extended:
    """A tokenizer with new pieces."""

    tokenizer: Any
    """A tokenizer of the same class and settings; old ids are unchanged."""
    pieces: tuple[str, ...]
    """The new pieces as in the vocabulary, in the order of their ids, which follow the old ones."""


def extend_tokenizer(tokenizer: Any, texts: Iterable[str], settings: VocabularySettings) -> Extended:
    """Learn at most `settings.pieces` pieces from texts and append them to a copy of a transformers tokenizer.

    `texts` are read once, in batches. Fewer pieces are learned if not enough pairs are frequent.

    Raises:
        ModelError: the tokenizer has no pieces that could be joined (WordPiece, whole words, slow tokenizers).
    """
    spec = _spec(tokenizer)
    merges, pieces = _chosen(tokenizer, _learned(tokenizer, texts, settings), settings.pieces)
    if not merges:
        return Extended(tokenizer, ())
    extend = _extend_bpe if spec["model"]["type"] == "BPE" else _extend_unigram
    extend(spec["model"], merges, pieces, _outside(tokenizer))
    return Extended(_rebuilt(tokenizer, spec), tuple(pieces))


def new_pieces(base: Any, extended: Any) -> dict[str, int]:
    """Piece -> id of the pieces that an extended tokenizer adds to its base, in the order of ids."""
    first = max(base.get_vocab().values()) + 1
    return dict(sorted(((p, i) for p, i in extended.get_vocab().items() if i >= first), key=lambda item: item[1]))


def extend_embeddings(model: Any, base_tokenizer: Any, tokenizer: Any) -> list[int]:
    """Add a row for every new piece: the mean of the rows of its old pieces. Return the new ids.

    Input and untied output embeddings (and the head's bias) are treated the same. A matrix with spare rows, as in
    padded vocabularies, keeps its size; it never shrinks.
    """
    pieces = new_pieces(base_tokenizer, tokenizer)
    if not pieces:
        return []
    resize_rows(model, max(pieces.values()) + 1)
    cut = base_tokenizer.backend_tokenizer.model.tokenize
    parts = {i: [token.id for token in cut(piece)] for piece, i in pieces.items()}
    head = model.get_output_embeddings()
    # by identity: a tied head is the same tensor and must not be set twice
    tensors = {id(t): t for t in (model.get_input_embeddings().weight, head.weight, getattr(head, "bias", None))
               if t is not None}  # fmt: skip
    with torch.no_grad():
        for tensor in tensors.values():
            for new, old in parts.items():
                tensor[new] = tensor[old].float().mean(0).to(tensor.dtype)
    return list(pieces.values())


def resize_rows(model: Any, rows: int) -> None:
    """Resize the embeddings to at least this many rows."""
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)  # the new rows are set or loaded by the caller


def trainable_rows(model: Any, rows: Sequence[int], targets: str | Sequence[str]) -> dict[str, list[int]] | None:
    """PEFT's `trainable_token_indices` for these rows of input and untied output embeddings; None without rows.

    Raises:
        ModelError: PEFT cannot train rows of this head, or `targets` (of LoRA) names a layer whose rows are trained.
    """
    if not rows:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    if getattr(head, "bias", None) is not None:
        raise ModelError("model.vocabulary: the output head has a bias, which PEFT drops; set model.tuning to full")
    names = [name for name, module in model.named_modules() if module is embedding or (module is head and not tied)]
    wanted = [targets] if isinstance(targets, str) else targets
    for name in names:
        if any(name == t or name.endswith("." + t) for t in wanted):
            raise ModelError(f"model.lora.targets names {name}, whose new rows model.vocabulary trains; remove it")
    return {name: list(rows) for name in names}


def _spec(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer as JSON. Raises ModelError if its kind cannot be extended."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"model.vocabulary: {tokenizer.name_or_path!r} has no fast tokenizer; set vocabulary: null")
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    affix = model["type"] == "BPE" and (model["continuing_subword_prefix"] or model["end_of_word_suffix"])
    if model["type"] not in ("BPE", "Unigram") or affix:
        kind = f"BPE with {affix!r}" if affix else model["type"]
        raise ModelError(
            f"model.vocabulary: the tokenizer of {tokenizer.name_or_path!r} is {kind}, to which no pieces can be "
            "added; only BPE and Unigram can be extended, so set vocabulary: null"
        )
    return spec


def _learned(tokenizer: Any, texts: Iterable[str], settings: VocabularySettings) -> list[tuple[str, str]]:
    """Merges over letters, one for each old token, most frequent first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    size = max(tokenizer.get_vocab().values()) + 1
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        # more than requested, since different merges may spell the same piece
        vocab_size=size + 2 * settings.pieces + 100,
        min_frequency=settings.min_frequency,
        initial_alphabet=[chr(_FIRST + i) for i in range(size)],
        show_progress=False,
    )
    core.train_from_iterator(_words(tokenizer, texts), trainer)
    return [(left, right) for left, right in json.loads(core.to_str())["model"]["merges"]]


def _words(tokenizer: Any, texts: Iterable[str]) -> Iterator[str]:
    """Each text as words of private letters, one for each old token."""
    from tokenizers import Tokenizer

    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    # padding would be counted as text, and truncation would cut long texts
    core.no_padding()
    core.no_truncation()
    vocabulary = tokenizer.get_vocab()
    special = tokenizer.get_added_vocab()
    alone = {i for p, i in vocabulary.items() if p in special or _APART.fullmatch(p)} | {tokenizer.unk_token_id}
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        for encoding in core.encode_batch(batch, add_special_tokens=False):
            yield " ".join("".join(chr(_FIRST + i) for i in word) for word in _groups(encoding, alone))


def _groups(encoding: Any, alone: set[int]) -> Iterator[list[int]]:
    """Token ids of each word; tokens that are never joined are in no word.

    A tokenizer without pre-tokenisation (Gemma) makes one word of the whole text; there `▁` begins a new one.
    """
    key, number = [], 0
    for token, i, word in zip(encoding.tokens, encoding.ids, encoding.word_ids, strict=True):
        number += token.startswith("▁") or i in alone
        key.append((word, number))
    for _, group in groupby(zip(key, encoding.ids, strict=True), key=lambda item: item[0]):
        ids = [i for _, i in group]
        yield [i for i in ids if i not in alone]


def _chosen(tokenizer: Any, learned: Sequence[tuple[str, str]], count: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Merges in real pieces, up to `count` new pieces; pieces that would spell a special token are excluded."""
    vocabulary, special = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    spelling = {chr(_FIRST + i): piece for piece, i in vocabulary.items()}
    merges: dict[tuple[str, str], None] = {}
    pieces: dict[str, None] = {}
    dropped: set[str] = set()
    for left, right in learned:
        if len(pieces) == count:
            break
        halves = ("".join(spelling[c] for c in left), "".join(spelling[c] for c in right))
        whole = "".join(halves)
        # a merge of a dropped half could never apply
        if left in dropped or right in dropped or whole in special:
            dropped.add(left + right)
            continue
        # kept even if its piece is an old one: later merges build on it
        merges[halves] = None
        if whole not in vocabulary:
            pieces[whole] = None
    return list(merges), list(pieces)


def _outside(tokenizer: Any) -> dict[str, int]:
    """Added tokens, and a filler for every unused id.

    Both are put into the model's vocabulary: an added token that is missing there would be numbered on loading by the
    vocabulary's size, which grows, and the ids of new pieces must follow without a gap.
    """
    vocabulary = tokenizer.get_vocab()
    holes = set(range(max(vocabulary.values()))) - set(vocabulary.values())
    return {token: vocabulary[token] for token in tokenizer.get_added_vocab()} | {f"<unused {i}>": i for i in holes}


def _extend_bpe(
    model: dict[str, Any], merges: Sequence[tuple[str, str]], pieces: Sequence[str], outside: dict[str, int]
) -> None:
    model["vocab"] |= outside
    first = len(model["vocab"])
    model["vocab"] |= {piece: first + k for k, piece in enumerate(pieces)}
    # older files write a merge as one string, newer ones as a pair
    listed = not model["merges"] or not isinstance(model["merges"][0], str)
    old = {tuple(m) if listed else tuple(m.split(" ")) for m in model["merges"]}
    model["merges"] += [list(m) if listed else " ".join(m) for m in merges if m not in old]


def _extend_unigram(
    model: dict[str, Any], merges: Sequence[tuple[str, str]], pieces: Sequence[str], outside: dict[str, int]
) -> None:
    lowest = min(score for _, score in model["vocab"])
    known = {piece for piece, _ in model["vocab"]}
    # ids are positions here
    missing = sorted((i, token) for token, i in outside.items() if token not in known)
    # the lowest score, so that no text is ever segmented into a filler
    model["vocab"] += [[token, lowest] for _, token in missing]
    scores: dict[str, float] = dict(model["vocab"])
    for left, right in merges:
        scores.setdefault(left + right, scores[left] + scores[right] + _GAIN)
    model["vocab"] += [[piece, scores[piece]] for piece in pieces]


def _rebuilt(tokenizer: Any, spec: dict[str, Any]) -> Any:
    """The tokenizer as it will be loaded from a run's folder: of the same class, with only the model replaced."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        rebuilt = type(tokenizer).from_pretrained(folder)
    rebuilt.name_or_path = tokenizer.name_or_path
    return rebuilt
