"""Token ids of text that cannot contain control tokens: only a chat template and the tokenizer itself write those.

A tokenizer reads `</s>` or `<|im_start|>` in any text as the control token of that name. In a corpus this puts an end
of sequence into the middle of a target; in a request it lets a user write a system turn. Here the names are ordinary
text, except where a template wrote them.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

_DIGITS = f"{secrets.randbits(64):020d}"
BREAK = f"\ufdd0{_DIGITS}\ufdd1"
"""Text that splits the name of a control token within a content while a template is rendered. It is random, so that no
content contains it, and has only digits between noncharacters, so that filters of a template do not change it."""
_MARK = f"\ufdd2{_DIGITS}\ufdd3"
"""Text before the names of control tokens for a tokenizer that recognises them only there."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class TextTokenizer:
    """A transformers tokenizer for texts of users and corpora.

    Control tokens are the special ones, and the added tokens that the chat template names (Qwen's `<think>`). A text
    without their names is tokenised by the tokenizer as it is; only the others take a slower path.
    """

    def __init__(self, tokenizer: Any, form: str | None = None) -> None:
        self.tokenizer, self.form = tokenizer, form
        self.control = control_tokens(tokenizer)
        """Name -> id."""
        unknown = getattr(tokenizer, "unk_token_id", None)
        # unknown characters have that id too; its name is searched for in the text
        self._ids = frozenset(self.control.values()) - {unknown}
        self._unknown = next((name for name, i in self.control.items() if i == unknown), None)
        self._fast = getattr(tokenizer, "backend_tokenizer", None) is not None

    def __getstate__(self) -> dict[str, Any]:
        # the guarded tokenizer contains this process's mark
        return {"tokenizer": self.tokenizer, "form": self.form}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def normal(self, text: str) -> str:
        """The text in the Unicode normalisation form `form`."""
        if self.form is None or text.isascii():
            return text
        return unicodedata.normalize(self.form, text)  # type: ignore[arg-type]  # checked by the settings

    def ids(self, text: str) -> list[int]:
        """Ids of a text alone."""
        return self.batch([text])[0]

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone; a fast tokenizer uses all cores."""
        if not texts:
            return []
        texts = [self.normal(text) for text in texts]
        found = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [
            self._plain(text, add_special_tokens=False) if self._holds(text, ids) else list(ids)
            for text, ids in zip(texts, found, strict=True)
        ]

    def framed(self, text: str, *, target: bool = False) -> list[int]:
        """Ids of a text with the special tokens that the tokenizer puts around it, or around a `target`."""
        text = self.normal(text)
        asked = {"text_target" if target else "text": text}
        before, after = self._target_frame if target else self._frame
        ids = list(self.tokenizer(**asked)["input_ids"])
        return self._plain(**asked) if self._holds(text, ids[before : len(ids) - after]) else ids

    @property
    def suffix(self) -> int:
        """Number of special tokens that `framed` puts after a text."""
        return self._frame[1]

    def broken(self, contents: Sequence[str]) -> list[str]:
        """Return the contents of turns, with `BREAK` in each name of a control token."""
        contents = [self.normal(content) for content in contents]
        if self._names is None or not self._named("".join(contents)):
            return contents
        return [self._broken(content) for content in contents]

    def rendered(self, text: str) -> list[int]:
        """Ids of a text that a template wrote, with `broken` contents."""
        text = self.normal(text)
        if BREAK not in text:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not self._fast:
            return self._pieces(text)
        assert self._names is not None  # otherwise nothing would have been broken
        marked = self._names.sub(lambda name: _MARK + name[0], text).replace(BREAK, "")
        return list(self._guarded(marked, add_special_tokens=False)["input_ids"])

    def first_control(self, text: str) -> str:
        """Name of the first control token that a template wrote in a text; empty without one."""
        return next(iter(self._written(text)), "")

    def last_control(self, text: str) -> str:
        """Name of the last control token that a template wrote in a text; empty without one."""
        return next(iter(self._written(text)[::-1]), "")

    # --- internal ---------------------------------------------------------------------------------------

    def _holds(self, text: str, ids: Sequence[int]) -> bool:
        """Return True if ids, without the special tokens around a text, contain a control token."""
        return not self._ids.isdisjoint(ids) or (self._unknown is not None and self._unknown in text)

    def _plain(self, text: str | None = None, **asked: Any) -> list[int]:
        if text is not None:
            asked["text"] = text
        if self._fast:
            return list(self._guarded(**asked)["input_ids"])
        return list(self.tokenizer(**asked, split_special_tokens=True)["input_ids"])

    @cached_property
    def _frame(self) -> tuple[int, int]:
        return self._around({"text": "a"})

    @cached_property
    def _target_frame(self) -> tuple[int, int]:
        return self._around({"text_target": "a"})

    def _around(self, asked: Mapping[str, str]) -> tuple[int, int]:
        """Numbers of special tokens before and after a text."""
        ids = list(self.tokenizer(**asked)["input_ids"])
        inner = len(self.tokenizer(**asked, add_special_tokens=False)["input_ids"])
        before = next((k for k, i in enumerate(ids) if i not in self._ids), 0)
        return before, max(0, len(ids) - inner - before)

    @cached_property
    def _names(self) -> re.Pattern[str] | None:
        # the longest first, as tokenizers choose; a name of one character cannot be broken
        names = sorted((name for name in self.control if len(name) > 1), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, names))) if names else None

    @cached_property
    def _folding(self) -> Any:
        """The normaliser, if another text becomes the name of a control token by it (NFKC: `＜s＞`, lower case: `<S>`);
        otherwise None."""
        found = self.tokenizer.backend_tokenizer.normalizer if self._fast else None
        wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
        others = ((name, other) for name in self.control for other in (name.translate(wide), name.upper()))
        if found and any(name != other and name in found.normalize_str(other) for name, other in others):
            return found
        return None

    def _written(self, text: str) -> list[str]:
        return self._names.findall(text) if self._names is not None else []

    def _named(self, text: str) -> bool:
        """Return True if a text contains the name of a control token, in any form that the tokenizer treats as it."""
        assert self._names is not None
        if self._names.search(text):
            return True
        return self._folding is not None and self._names.search(self._folding.normalize_str(text)) is not None

    def _broken(self, content: str) -> str:
        assert self._names is not None
        body = content.strip()
        # one after another: breaking a name may leave another one that overlaps it
        while (name := self._names.search(body)) is not None:
            at = name.start() + 1
            body = body[:at] + BREAK + body[at:]
        if not body:
            return content
        lead, _, trail = content.partition(content.strip())
        # at both ends: two adjacent contents could form a name together
        return lead + BREAK + body + BREAK + trail

    def _pieces(self, text: str) -> list[int]:
        """Ids of a rendered text by a tokenizer without a backend: each control token, and the texts between them."""
        assert self._names is not None
        found: list[int] = []
        at = 0
        for name in self._names.finditer(text):
            found += self._between(text[at : name.start()])
            found.append(self.control[name[0]])
            at = name.end()
        return found + self._between(text[at:])

    def _between(self, text: str) -> list[int]:
        text = text.replace(BREAK, "")
        return self._plain(text, add_special_tokens=False) if text else []

    @cached_property
    def _guarded(self) -> Any:
        """The same tokenizer with other names of the control tokens: each begins with `_MARK`."""
        from tokenizers import Tokenizer

        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # those that the tokenizer object adds are in the backend too
        for token in spec["added_tokens"]:
            if token["content"] in self.control:
                token["content"] = _MARK + token["content"]
        _rename(spec["model"], self.control)
        guarded = copy.copy(self.tokenizer)
        guarded._tokenizer = Tokenizer.from_str(json.dumps(spec))
        return guarded


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Name -> id of the tokens that no text may contain: special ones, and added ones that the template names."""
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    template = _template_text(tokenizer)
    found = {}
    for i, token in added.items():
        name = str(token.content)
        # added tokens of whitespace and words are ordinary text, although a template may contain them; those of bytes
        # spell it
        written = name in template and not name[:1].isalnum() and not name[:1].isspace()
        if name.strip() and (token.special or written) and not _BYTE.fullmatch(name):
            found[name] = int(i)
    return found


def _template_text(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template)


def _rename(model: dict[str, Any], names: Iterable[str]) -> None:
    """Rename tokens in a model's vocabulary: Unigram and word models find them in a text even if they are not added."""
    renamed = {name: _MARK + name for name in names}
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed.get(piece, piece): i for piece, i in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[renamed.get(piece, piece), *rest] for piece, *rest in vocabulary]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    if model.get("merges"):
        made = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [m for m in made if "".join(m) not in renamed and not renamed.keys() & set(m)]
