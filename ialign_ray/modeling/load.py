"""Load a causal or encoder-decoder language model and its adapter, and report mismatches in one sentence."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from ialign_ray.config import LoraSettings, ModelSettings
from ialign_ray.errors import ModelError, first_line
from ialign_ray.modeling.architecture import FORCED, auto_class, is_encoder_decoder
from ialign_ray.modeling.attention import attention_kernel
from ialign_ray.modeling.patterns import check_patterns
from ialign_ray.modeling.vocabulary import resize_rows, trainable_rows
from ialign_ray.pocket import POCKET, pocket_file

_UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""Errors of libraries for files that are missing or damaged, or for pickles with more than tensors."""
_LARGEST_VOCABULARY_GROWTH = 100_000
"""Most new rows of the embeddings that an adapter may bring."""


def model_location(identifier: str) -> str:
    """Folder or hub id; for `pocket:base`, the folder that `ialign` created on first use."""
    return str(pocket_file(identifier)) if identifier.startswith(POCKET) else identifier


def load_tokenizer(settings: ModelSettings, location: str | None = None) -> Any:
    """The tokenizer, with a padding token (EOS if it lacks one; padding is always masked)."""
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, settings, location)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # it would warn of each text that is longer than the model's context, before we cut or drop it
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def load_base(settings: ModelSettings, location: str | None = None) -> Any:
    """The base model in evaluation mode, in the precision of the settings, on the CPU.

    A quantised one is on this process's GPU, if it has one: there its weights are packed.
    """
    loader = auto_class(load_config(settings, location), settings.id)
    # trained weights stay in fp32: in bf16 a small step rounds to zero
    frozen_half = settings.precision == "bf16" and settings.tuning == "lora"
    dtype = torch.bfloat16 if frozen_half else torch.float32
    kernel = attention_kernel(settings)
    extra = _quantized(settings, dtype) | ({} if kernel is None else {"attn_implementation": kernel})
    model = _from_pretrained(loader, settings, location, dtype=dtype, **extra)
    _keep_gradients(model)
    model.base_revision = settings.revision  # for an adapter's config
    return model.eval()


def _keep_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for evaluation on CPUs with AVX512-BF16.

    It never packs them back for training, and the repacked product has no gradient: after the first validation, layers
    below would get no gradient (0.50). It also fails on rows shorter than a block of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # a flag next to the weights


def check_quantization(settings: ModelSettings) -> None:
    """Raise ModelError if `model.quantization` is set and bitsandbytes is missing."""
    if settings.quantization and find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization {settings.quantization} needs bitsandbytes; install it with "
            "pip install 'ialign_ray[qlora]', or set quantization: null"
        )


def _quantized(settings: ModelSettings, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for quantising; the output head is not quantised."""
    if settings.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    check_quantization(settings)
    if settings.quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    }


_USED = {*FORCED, "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "transformers_version"}
_SAMPLING = {"do_sample", "temperature", "top_p", "top_k", "max_length", "max_new_tokens", "use_cache"}
"""Settings that every request, or every evaluation, makes for itself."""


def set_aside(settings: ModelSettings, location: str | None = None) -> list[str]:
    """Settings of the folder's generation_config that neither evaluation nor serving applies.

    Suppressed tokens, penalties, stop strings: what one of them applied and the other did not would give two answers.
    """
    from transformers import GenerationConfig

    where, revision = location or model_location(settings.id), None if location else settings.revision
    try:
        config = GenerationConfig.from_pretrained(where, revision=revision)
    except _UNLOADABLE:  # most folders lack the file
        return []
    seq2seq = getattr(load_config(settings, location), "is_encoder_decoder", False)
    used = _USED if seq2seq else _USED - set(FORCED)
    named = (name for name in config.to_diff_dict() if name not in used | _SAMPLING)
    return sorted(name for name in named if not name.startswith(("_", "output_", "return_")))  # what is given back


def set_aside_warning(settings: ModelSettings) -> list[str]:
    """A sentence about what `set_aside` found, or nothing."""
    if not (names := set_aside(settings)):
        return []
    return [f"generation_config of {settings.id} sets {', '.join(names)}; evaluation and serving set them aside"]


def names_encoder_decoder(settings: ModelSettings) -> bool:
    """Return True if `model.id` is an encoder-decoder. Raises ModelError if it is not a generative language model."""
    from transformers import AutoModelForSeq2SeqLM

    return auto_class(load_config(settings), settings.id) is AutoModelForSeq2SeqLM


def load_config(settings: ModelSettings, location: str | None = None) -> Any:
    """transformers' config of the model, or of the folder `location`."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, settings, location)


def model_shape(settings: ModelSettings) -> Any:
    """The model's architecture without its weights (on the meta device): enough to check ranks."""
    config = load_config(settings)
    with torch.device("meta"):
        return auto_class(config, settings.id).from_config(config, trust_remote_code=settings.trust_remote_code)


def add_adapter(model: nn.Module, lora: LoraSettings, seed: int, rows: Sequence[int] = ()) -> Any:
    """Wrap a model in a LoRA adapter whose initial weights depend only on the seed.

    `rows` of the embeddings (ids of new pieces, see `extend_embeddings`) are trained and saved with it.
    Raises ModelError if a target does not exist or the rank exceeds a target layer's smaller dimension.
    """
    import peft

    check_rank(model, lora)
    if getattr(model, "is_quantized", False):
        # norms and head in fp32, as in QLoRA; checkpointing has a separate switch
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    # PEFT draws the initial weights from torch's global state
    torch.manual_seed(seed)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.scale_alpha,
            target_modules=lora.targets,
            lora_dropout=lora.dropout,
            use_dora=lora.dora,
            use_rslora=lora.rslora,
            trainable_token_indices=trainable_rows(model, rows, lora.targets),
            task_type="SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM",
        ),
        revision=getattr(model, "base_revision", None),
    )


def check_rank(model: nn.Module, lora: LoraSettings) -> None:
    """Refuse targets that the model lacks and a rank above the smaller dimension of a target layer."""
    targets = lora_targets(model, lora)
    if not targets:
        layers = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if is_matrix(m)})
        raise ModelError(
            f"model.lora.targets is {lora.targets!r}, but the model's layers are called {', '.join(layers)}"
        )
    name, smallest = min(targets.items(), key=lambda item: item[1])
    if lora.rank > smallest:
        raise ModelError(
            f"model.lora.rank is {lora.rank}, but layer {name} has a side of only {smallest}; "
            f"set a rank of at most {smallest}"
        )


def lora_targets(model: nn.Module, lora: LoraSettings) -> dict[str, int]:
    """Adapted layers and their smaller dimension; the output head is never one of `all-linear`."""
    inner: Any = model
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    chosen = {}
    for name, module in model.named_modules():
        if not is_matrix(module):
            continue
        if (lora.targets == "all-linear" and module is not head) or any(
            name == n or name.endswith("." + n) for n in lora.targets
        ):
            chosen[name] = _smaller_side(module)
    return chosen


def load_adapted(settings: ModelSettings, folder: Path | None) -> tuple[Any, Any]:
    """(model, tokenizer) of a finished run's adapter or full-model folder, or of the base for None.

    A folder's tokenizer is used if it has one: it may contain pieces that the base's lacks.
    """
    if folder is None:
        return load_base(settings), load_tokenizer(settings)
    if not (folder / "adapter_config.json").exists():
        if not (folder / "config.json").exists():
            raise ModelError(
                f"{folder} holds neither adapter_config.json nor config.json; name a finished run or its model folder"
            )
        return load_base(settings, str(folder)), load_tokenizer(settings, str(folder))
    import peft

    base = load_base(settings)
    config = adapter_config(folder)
    try:
        _check_adapter(config, base, folder)
        resize_rows(base, _rows_needed(config))
        model = peft.PeftModel.from_pretrained(base, str(folder))
    except (*_UNLOADABLE, TypeError, AttributeError, re.error) as error:
        raise ModelError(f"adapter {folder} does not load onto {settings.id!r}: {first_line(error)}") from error
    own = (folder / "tokenizer_config.json").exists()
    return model.eval(), load_tokenizer(settings, str(folder) if own else None)


def check_finite(model: nn.Module, where: str) -> None:
    """Raise ModelError if a weight is NaN or infinite; `where` is the model's folder or hub id."""
    for name, weight in model.named_parameters():
        checked = weight.detach() if weight.is_floating_point() else weight.new_zeros(1)
        # the extremes of a tensor with NaN are NaN; a mask of its size would double the largest weight
        if checked.numel() and not all(extreme.isfinite() for extreme in checked.aminmax()):
            raise ModelError(
                f"{name} of {where} contains NaN or infinity; the training diverged or the file is damaged, so "
                "use an earlier checkpoint or export it again"
            )


def save_model(model: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write an adapter, or a full model, as `load_adapted` and every other tool reads it.

    `weights` replace those of the model, which are sharded over several workers.
    """
    own_rows = hasattr(model, "peft_config") and any(c.trainable_token_indices for c in model.peft_config.values())
    # by default PEFT would save both full matrices, because their size differs from the base's
    rows = {"save_embedding_layers": False} if own_rows else {}
    model.save_pretrained(folder, state_dict=weights, **rows)


def merge(model: Any) -> Any:
    """Return a plain transformers model with the adapter merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's `adapter_config.json`. Raises ModelError if it is missing or not a JSON object."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"{folder} holds no adapter_config.json; name the folder of a PEFT adapter.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} of {folder} cannot be read: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file.name} of {folder} cannot be read: it is not a JSON object")
    return config


def _check_adapter(config: dict[str, Any], base: nn.Module, folder: Path) -> None:
    """Refuse small files that would make PEFT allocate or match endlessly."""
    check_patterns(config, [name for name, _ in base.named_modules()], folder)
    largest = max((_smaller_side(m) for m in base.modules() if is_matrix(m)), default=0)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if too_large := [rank for rank in ranks if isinstance(rank, int) and rank > largest]:
        raise ModelError(
            f"adapter {folder} has rank {max(too_large)}, but no layer of its base has a side above {largest}; "
            "it belongs to another base, or is damaged"
        )
    if config.get("layer_replication"):
        raise ModelError(f"adapter {folder} has layer_replication, which repeats layers; merge it into its base first")
    rows = int(cast("Any", base).get_input_embeddings().weight.shape[0])
    if (needed := _rows_needed(config)) > rows + _LARGEST_VOCABULARY_GROWTH:
        raise ModelError(
            f"adapter {folder} trains row {needed - 1} of the embeddings, and its base has {rows}; it belongs to "
            "another base, or is damaged"
        )


def _rows_needed(config: dict[str, Any]) -> int:
    """Rows that the base's embeddings must have for an adapter with trained rows; 0 without."""
    trained = config.get("trainable_token_indices") or {}
    every = [trained] if isinstance(trained, list) else trained.values()
    return max((i + 1 for rows in every for i in rows), default=0)


def is_matrix(module: nn.Module) -> bool:
    """Return True if a layer is a linear map, which an adapter can be put on."""
    # Linear, GPT-2's Conv1D, which stores its weight transposed, and their bitsandbytes versions
    weight = getattr(module, "weight", None)
    return type(module).__name__ in ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt") and isinstance(
        weight, torch.Tensor
    )


def _smaller_side(module: Any) -> int:
    # weights of 4 bits are packed into a different shape
    return min(module.in_features, module.out_features) if isinstance(module, nn.Linear) else min(module.weight.shape)


def _from_pretrained(loader: Any, settings: ModelSettings, location: str | None, **extra: Any) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()  # weights load in a second; the bar would interrupt ours
    where = location or model_location(settings.id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loader.from_pretrained(
                where,
                revision=settings.revision if location is None else None,
                trust_remote_code=settings.trust_remote_code,
                **extra,
            )
    except (*_UNLOADABLE, ImportError) as error:
        raise ModelError(
            f"model.id {where!r} cannot be loaded ({first_line(error)}); name a hub id that this machine can "
            "reach, or a folder with config.json, weights and tokenizer"
        ) from error
