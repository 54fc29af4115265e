"""Groups of rows that are decoded together, one token per step.

A causal model with plain keys and values has one group, which rows join and leave at any step. Encoder-decoders,
recurrent models and those whose positions padding would shift have one group for each set of rows that began together;
the groups take turns.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ialign_ray.inference.batching import cache_argument, device_of, padded, takes_left_padding
from ialign_ray.modeling.architecture import decoder_start, is_encoder_decoder
from ialign_ray.modeling.head import base_model, target_logits
from ialign_ray.serving.engine.kv_cache import SlotCache
from ialign_ray.serving.engine.lora import LoraBank
from ialign_ray.serving.engine.requests import GenerationRow

STATES = ("cache", "past_key_values", "cache_params")
"""Names that architectures give to their state of the tokens read."""


class Continued:
    """Arguments with which a causal model's `forward` continues from a cache.

    Their names are found once: inspecting a signature takes as long as a layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self._name = cast("str", cache_argument(model))
        self._places = "position_ids" in inspect.signature(base_model(model).forward).parameters

    def __call__(self, cache: Any, mask: Tensor, places: Tensor) -> dict[str, Any]:
        """Return the arguments for a mask [rows, columns so far] and positions [rows, new columns]."""
        inputs = {self._name: cache, "attention_mask": mask, "use_cache": True}
        return inputs | ({"position_ids": places} if self._places else {})


class Prefill:
    """Prompts read into a cache some columns at a time, so that a long one does not stall running rows."""

    def __init__(self, model: nn.Module, bank: LoraBank, continued: Continued, rows: Sequence[GenerationRow]) -> None:
        self._model, self._bank, self.continued = model, bank, continued
        self.rows = list(rows)
        self.cache = DynamicCache()
        self._ids, self._mask = padded([row.prompt for row in rows], device_of(model), left=True)
        # Left padding: the prompts end in one column, so each row's next token is written into the same new column.
        # Positions count real tokens only, so a row's numbers do not depend on how much padding its mates cause.
        self._places = (self._mask.cumsum(1) - 1).clamp(min=0)
        self._read = 0

    def advance(self, tokens: int) -> Tensor | None:
        """Read about `tokens` more; return the logits after the prompts [rows, V] once all are read, else None."""
        count, width = self._ids.shape
        begin, self._read = self._read, min(width, self._read + max(1, tokens // count))
        part = slice(begin, self._read)
        # logits of each row's last column only: those of every column would be the largest tensor of the pass
        ends = torch.arange(1, count + 1) * (self._read - begin) - 1
        inputs = self.continued(self.cache, self._mask[:, : self._read], self._places[:, part])
        with self._bank.using([row.adapter for row in self.rows], self._read - begin):
            logits = target_logits(self._model, ends, input_ids=self._ids[:, part], **inputs)
        return logits if self._read == width else None


class Group(ABC):
    """Rows that are decoded together."""

    def __init__(self, model: nn.Module, bank: LoraBank) -> None:
        self.model, self.bank = model, bank
        self.rows: list[GenerationRow] = []
        self.broken = False
        """True if a failure left the rows' state half written."""

    @abstractmethod
    def step(self) -> Tensor:
        """Return logits [rows, V] after each row's last written token."""

    @abstractmethod
    def drop(self, gone: Collection[GenerationRow]) -> None:
        """Remove rows."""

    def last(self) -> Tensor:
        """Return each row's last written token, [rows, 1]."""
        return torch.tensor([[row.written[-1]] for row in self.rows], device=device_of(self.model))

    def adapters(self) -> list[str | None]:
        """Return each row's adapter."""
        return [row.adapter for row in self.rows]


class Slots(Group):
    """The only group of a causal model with plain keys and values: left-padded rows in one buffer."""

    def __init__(self, model: nn.Module, bank: LoraBank, continued: Continued) -> None:
        super().__init__(model, bank)
        self.cache = SlotCache()
        self._lengths: list[int] = []
        self._continued = continued

    def join(self, rows: Sequence[GenerationRow], cache: DynamicCache) -> None:
        """Add rows whose prompts have been read."""
        self.broken = True  # if memory runs out here, some layers have the new rows and others do not
        self.cache.join(cache)
        self.broken = False
        self.rows += rows
        self._lengths += [len(row.prompt) for row in rows]

    def step(self) -> Tensor:
        """See `Group.step`."""
        self.cache.room()
        lengths = torch.tensor(self._lengths, device=device_of(self.model))[:, None]
        width = self.cache.span.end - self.cache.span.begin
        mask = (torch.arange(width + 1, device=lengths.device) >= width - lengths).long()
        with self.bank.using(self.adapters()):
            out = self.model(input_ids=self.last(), **self._continued(self.cache, mask, lengths))
        self.cache.span.end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return cast("Tensor", out.logits[:, -1])

    def drop(self, gone: Collection[GenerationRow]) -> None:
        """See `Group.drop`."""
        for row in gone:
            at = self.rows.index(row)
            self.cache.leave(at)
            # the last row moves into its place, as in the cache: one row is copied, not all behind it
            self.rows[at], self._lengths[at] = self.rows[-1], self._lengths[-1]
            del self.rows[-1], self._lengths[-1]
        if self.rows:
            self.cache.narrow(max(self._lengths))


class Cohort(Group):
    """Causal rows of one prompt length, together from first to last token, without padding or positions from us."""

    def __init__(self, model: nn.Module, bank: LoraBank, rows: Sequence[GenerationRow]) -> None:
        super().__init__(model, bank)
        self.rows = list(rows)
        self._state: dict[str, Any] = {}
        takes = inspect.signature(base_model(model).forward).parameters
        self._names = [name for name in STATES if name in takes]

    def step(self) -> Tensor:
        """See `Group.step`; the first one reads the prompts."""
        if self._state:
            ids = self.last()
        else:
            ids = torch.tensor([[*row.prompt, *row.written] for row in self.rows], device=device_of(self.model))
        with self.bank.using(self.adapters(), ids.shape[1]):
            out = self.model(input_ids=ids, use_cache=True, **self._state)
        name = next((name for name in self._names if out.get(name) is not None), None)
        # without a returned state, every step reads the whole rows again: slow, but right for any architecture
        self._state = {} if name is None else {name: out[name]}
        return cast("Tensor", out.logits[:, -1])

    def drop(self, gone: Collection[GenerationRow]) -> None:
        """See `Group.drop`."""
        kept = [i for i, row in enumerate(self.rows) if row not in gone]
        self.rows = [self.rows[i] for i in kept]
        if not all(hasattr(state, "reorder_cache") for state in self._state.values()):
            self._state = {}  # a state that cannot drop rows is rebuilt by the next step from the tokens
        for state in self._state.values():
            state.reorder_cache(torch.tensor(kept, device=device_of(self.model)))


class EncoderDecoderGroup(Group):
    """Rows of an encoder-decoder: the encoder reads once, then the decoder writes."""

    def __init__(self, model: nn.Module, bank: LoraBank, rows: Sequence[GenerationRow]) -> None:
        super().__init__(model, bank)
        self.rows = list(rows)
        self._start = cast("int", decoder_start(model))
        self._name = cast("str", cache_argument(model))
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._states: Tensor | None = None
        self._mask: Tensor | None = None

    def step(self) -> Tensor:
        """See `Group.step`; the first one runs the encoder too."""
        if self._states is None:
            ids, self._mask = padded([row.prompt for row in self.rows], device_of(self.model))
            with self.bank.using(self.adapters(), ids.shape[1]):
                encoder = base_model(self.model).get_encoder()
                self._states = encoder(input_ids=ids, attention_mask=self._mask).last_hidden_state
            before = torch.full((len(self.rows), 1), self._start, device=ids.device)
        else:
            before = self.last()
        with self.bank.using(self.adapters()):
            out = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
                attention_mask=self._mask,
                decoder_input_ids=before,
                use_cache=True,
                **{self._name: self._cache},
            )
        return cast("Tensor", out.logits[:, -1])

    def drop(self, gone: Collection[GenerationRow]) -> None:
        """See `Group.drop`."""
        kept = torch.tensor([i for i, row in enumerate(self.rows) if row not in gone], device=device_of(self.model))
        self.rows = [row for row in self.rows if row not in gone]
        self._cache.reorder_cache(kept)
        if self._states is not None and self._mask is not None:
            self._states, self._mask = self._states[kept], self._mask[kept]


class DecodingBatch:
    """All running rows of one model."""

    def __init__(self, model: nn.Module, bank: LoraBank) -> None:
        self._model, self._bank = model, bank
        self.joins = not is_encoder_decoder(model) and takes_left_padding(model)
        self.same_length = not self.joins and not is_encoder_decoder(model)
        self._continued = Continued(model) if self.joins else None
        self.groups: list[Group] = []
        self.prefill: Prefill | None = None
        self.fresh: Group | None = None

    def computes(self, adapter: str | None = None) -> bool:
        """Return True if a pass over a few tokens gives finite logits; the base's, or those with an adapter."""
        size = base_model(self._model).get_input_embeddings().weight.shape[0]
        ids = torch.linspace(0, size - 1, 4, device=device_of(self._model)).long()[None]
        target = {"decoder_input_ids": ids} if is_encoder_decoder(self._model) else {}
        with self._bank.using([adapter], ids.shape[1]):
            logits = self._model(input_ids=ids, **target).logits
        # a masked token may have -inf, so that only each position's maximum must be finite
        return bool(logits.float().amax(-1).isfinite().all())

    def rows(self) -> list[GenerationRow]:
        """Return all running rows."""
        return [row for group in self.groups for row in group.rows]

    def cached_tokens(self) -> int:
        """Count the allocated places for keys and values; 0 for models whose rows do not share a buffer."""
        return sum(group.cache.column_count() for group in self.groups if isinstance(group, Slots))

    def begin(self, rows: Sequence[GenerationRow]) -> None:
        """Accept rows, whose prompts `advance` will read."""
        if self._continued is not None:
            self.prefill = Prefill(self._model, self._bank, self._continued, rows)
        else:
            kind = EncoderDecoderGroup if is_encoder_decoder(self._model) else Cohort
            self.fresh = kind(self._model, self._bank, rows)

    def advance(self, tokens: int) -> tuple[list[GenerationRow], Tensor] | None:
        """Read about `tokens` more of the accepted prompts; return their rows and logits once all are read, else None.

        The rows are then in a group. Models whose rows do not join read whole prompts at once.
        """
        if self.fresh is not None:
            group, logits = self.fresh, self.fresh.step()
            self.fresh = None
            self.groups.append(group)
            return list(group.rows), logits
        if self.prefill is None or (after := self.prefill.advance(tokens)) is None:
            return None
        prefill, self.prefill = self.prefill, None
        if not self.groups:
            self.groups.append(Slots(self._model, self._bank, prefill.continued))
        cast("Slots", self.groups[0]).join(prefill.rows, prefill.cache)
        return prefill.rows, after

    def beginning(self) -> list[GenerationRow]:
        """Return the rows whose prompts are being read."""
        return list(self.prefill.rows) if self.prefill else list(self.fresh.rows) if self.fresh else []

    def stop_beginning(self) -> None:
        """Drop the rows whose prompts are being read."""
        self.prefill = self.fresh = None

    def drop(self, gone: Collection[GenerationRow]) -> None:
        """Remove rows from their groups; a row whose prompt is being read leaves after that."""
        for group in self.groups:
            own = [row for row in group.rows if row in gone]
            if own and len(own) < len(group.rows):
                group.drop(own)
            elif own:
                self.clear(group)

    def clear(self, group: Group) -> None:
        """Drop a group with its rows and their state."""
        self.groups = [other for other in self.groups if other is not group]
