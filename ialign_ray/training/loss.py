"""The loss on target positions, computed in parts, so that no full tensor of tokens x vocabulary exists.

A head of 250,000 entries makes 1 MB of logits per target token in fp32, and as much again in the backward pass. Here
head and cross-entropy run together over a few positions at a time, and each part's gradients are computed at once (as
in Liger, arXiv 2410.10989), so nothing is computed twice and only one part's logits are in memory. torch's
`linear_cross_entropy` (2.13) does the same for a plain matrix with a summed loss; here the head is called as a module,
with its adapter, bias or quantised weights, and the loss of every token is returned for the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from ialign_ray.modeling.head import base_model, output_head, target_logits

PART = 2**23
"""Number of logits computed at a time: 32 MiB in fp32, 33 positions of a vocabulary of 250,000."""

Finish = Callable[[Tensor], Tensor]
"""Function that an architecture applies to its head's output to get logits."""

# weak keys: a model is probed once, and not kept alive by the cache
_finishes: WeakKeyDictionary[nn.Module, Finish | None] = WeakKeyDictionary()


def target_nats(
    model: nn.Module, index: Tensor, labels: Tensor, weights: Tensor | None = None, /, **inputs: object
) -> tuple[Tensor, Tensor]:
    """Return the summed loss, differentiable once, and the loss of each position [N] in nats, without a gradient.

    Args:
        model: a transformers model, or one wrapped by peft or by data parallelism.
        index: LongTensor [N] of positions in the flattened [B * T] batch (decoder side for encoder-decoders).
        labels: LongTensor [N], the token that should follow each position.
        weights: factor [N] of each position in the sum. Default: 1.
        inputs: keyword arguments of the model.

    If the function from head to logits is unknown, the logits are computed at once, only on target positions.
    """
    finish = logits_finish(model)
    if finish is None:
        nats = functional.cross_entropy(_wide(target_logits(model, index, **inputs)), labels, reduction="none")
        return _weighted(nats, weights).sum(), nats.detach()
    head = output_head(model)
    made: list[tuple[Tensor, Tensor]] = []

    def stand_in(hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])[index.to(hidden.device)]
        # one position gives the size of the vocabulary and, by its graph, the parameters that the head trains
        one = own(flat[:1].detach())
        rows = max(1, PART // one.shape[-1])
        fixed = (labels.to(flat.device), None if weights is None else weights.to(flat.device))
        made.append(_in_parts(flat, *fixed, own, finish, rows, *_trained(one)))
        return made[0][0].reshape(1, 1, 1)

    with _forward_of(head, stand_in) as own:
        logits = model(**{"use_cache": False} | inputs).logits
    total, nats = made[0]
    # the model's output stays in the graph, where wrappers attach their backward hooks
    return total + 0 * logits.sum().to(total.device), nats


def _weighted(nats: Tensor, weights: Tensor | None) -> Tensor:
    return nats if weights is None else nats * weights


def _wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class _InParts(torch.autograd.Function):
    """Cross-entropy of head(hidden) with the gradients of hidden states and head, for a part of the rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        head: Finish,
        finish: Finish,
        rows: int,
        *trained: Tensor,
    ) -> tuple[Tensor, Tensor]:
        nats = torch.empty(len(labels), device=hidden.device, dtype=_wide(hidden).dtype)
        wanted = any(ctx.needs_input_grad)
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_trained: list[Tensor] = []
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            with torch.set_grad_enabled(wanted):
                # detached: this part's gradients are computed now, so its logits are freed before the next
                # part
                own = hidden[part].detach().requires_grad_(to_hidden is not None)
                logits = _wide(finish(head(own)))
                loss = functional.cross_entropy(logits, labels[part], reduction="none")
                nats[part] = loss.detach()
                del logits
                if wanted:
                    own_weights = None if weights is None else weights[part]
                    first = [own] if to_hidden is not None else []
                    found = list(torch.autograd.grad(_weighted(loss, own_weights).sum(), [*first, *trained]))
                    if to_hidden is not None:
                        to_hidden[part] = found.pop(0)
                    # to_trained is empty at the first part, whose gradients become the totals
                    for total, gradient in zip(to_trained, found, strict=False):
                        total += gradient
                    to_trained = to_trained or found
        # without a target position no part was computed; the head still gets a gradient, of zeros
        ctx.save_for_backward(to_hidden, *(to_trained or map(torch.zeros_like, trained)))
        ctx.mark_non_differentiable(nats)
        return _weighted(nats, weights).sum(), nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a head's gradient is as large as the head
        to_hidden, *to_trained = (g if g is None else g.mul_(to_total) for g in ctx.saved_tensors)
        return to_hidden, None, None, None, None, None, *to_trained


_in_parts: Callable[..., tuple[Tensor, Tensor]] = _InParts.apply


def _trained(made: Tensor) -> list[Tensor]:
    """The leaves that receive a tensor's gradient: a head may use parameters that are registered elsewhere."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    ahead: list[Any] = [made.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        ahead += [following for following, _ in node.next_functions]
    return list(found.values())


def logits_finish(model: nn.Module) -> Finish | None:
    """Return the function after the head in the model's forward (identity, scale, soft cap); None if it is unknown.

    Candidates come from the config and are tested: the model is run once with hidden states of our choice, whose logits
    reach 100, so that a cap has an effect, and the candidate must reproduce the model's logits exactly.
    """
    if model not in _finishes:
        _finishes[model] = _tried(model)
    return _finishes[model]


def _tried(model: nn.Module) -> Finish | None:
    head, config = output_head(model), base_model(model).config
    seen: list[Tensor] = []

    def stand_in(hidden: Tensor) -> Tensor:
        chosen = torch.randn_like(hidden)
        seen.append(own(chosen * 100 / own(chosen).abs().max()))
        return seen[-1]

    token = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    inputs = {"input_ids": token, "attention_mask": torch.ones_like(token), "use_cache": False}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = token
    device = token.device
    # the probe draws random numbers; those of training must be the same with and without it
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        with _forward_of(head, stand_in) as own:
            logits = model(**inputs).logits
        # a head that is called several times, or not through its forward, cannot be computed in parts
        if len(seen) != 1:
            return None
        return next((f for f in _candidates(config) if torch.allclose(f(seen[0]).float(), logits.float())), None)


def _candidates(config: Any) -> Iterator[Finish]:
    text = config.get_text_config(decoder=True)
    yield lambda logits: logits
    if cap := getattr(text, "final_logit_softcapping", None):  # Gemma
        yield lambda logits: cap * torch.tanh(logits / cap)
    if scale := getattr(text, "logit_scale", None):  # Cohere
        yield lambda logits: logits * scale
    if scaling := getattr(text, "logits_scaling", None):  # Granite
        yield lambda logits: logits / scaling
        yield lambda logits: logits * scaling  # HyperCLOVA X


@contextmanager
def _forward_of(head: nn.Module, stand_in: Finish) -> Iterator[Finish]:
    """Replace the head's forward by `stand_in`; yield the original."""
    own = head.forward
    # a wrapper may have set a forward on the instance; otherwise the class's must be found again afterwards
    lent = "forward" in vars(head)
    head.forward = stand_in
    try:
        yield own
    finally:
        if lent:
            head.forward = own
        else:
            del head.forward
