"""A model's repeated blocks of layers: where activations are let go, what is compiled, and what is cut over workers."""

from __future__ import annotations

from torch import nn

from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import base_model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks as the architecture names them for splitting over devices.

    Where it names none, the members of its longest list of modules.
    """
    inner = base_model(model)
    names = set(getattr(inner, "_no_split_modules", None) or ())
    if named := [m for m in inner.modules() if type(m).__name__ in names]:
        return named
    lists = [list(m) for m in inner.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only each block's input for the backward pass, which computes the rest again (arXiv 1604.06174).

    Raises:
        ModelError: the architecture's code does not allow for it.
    """
    inner = base_model(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError(f"train.gradient_checkpointing: {type(inner).__name__} has none; set it to false")
    inner.activation_checkpointing_enable({"use_reentrant": False})


def compile_blocks(model: nn.Module) -> None:
    """Have torch.compile translate each block at its first use, for all lengths of a batch.

    Block by block, since equal ones are translated once, and since embeddings and head stay as they are: a graph of the
    whole model would not see which positions the head is asked for. Names of weights stay what they are.
    """
    for block in blocks(model):
        block.compile(dynamic=True)
