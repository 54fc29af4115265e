"""`model`: the base model and how it is tuned."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ialign_ray.config.base import Section

CHAT_DATE: Final = "2025-01-01"
"""Default of `model.chat_date`."""


def _listed(value: Any) -> Any:
    """One name as a list of it: PEFT takes a string for a pattern over whole names."""
    return [value] if isinstance(value, str) and value != "all-linear" else value


DECLARED: Final = {"model": {"trained_on"}}
"""Settings of an experiment that say something about the base, and that no weights depend on."""


class LoraSettings(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), as `peft.LoraConfig` names them."""

    rank: int = Field(16, ge=1)
    """Rank of the update, at least 1 and at most the smallest dimension of a target layer."""
    alpha: float | None = Field(None, gt=0)
    """Scale of the update. Default: twice the rank, or 8 with `rslora`, so that both scale by 2 at rank 16."""
    targets: Literal["all-linear"] | Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)] = "all-linear"
    """Names of modules to adapt (one, or a list), or `all-linear`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input, from 0 to below 1."""
    dora: bool = False
    """Weight-decomposed update (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732), which keeps updates comparable over ranks at a fixed
    alpha."""

    @property
    def scale_alpha(self) -> float:
        """`alpha`, or its default."""
        if self.alpha is not None:
            return self.alpha
        return 8.0 if self.rslora else 2.0 * self.rank


class VocabularySettings(Section):
    """New pieces for the tokenizer, learned from the training texts of the L2 languages.

    Each is initialised to the mean of the pieces that it joins; with LoRA its rows are trained and saved with the
    adapter.
    """

    pieces: int = Field(500, ge=1)
    """Most pieces to add."""
    min_frequency: int = Field(10, ge=2)
    """Fewest times that the two halves of a piece must be adjacent in the training texts."""


class DeclaredTraining(Section):
    """A benchmark that the base model is declared to have been trained on."""

    suite: str = Field(min_length=1)
    """Name of a suite, or of a benchmark or hub data set."""
    source: str | None = None
    """Origin of the claim: a paper, a model card, an address."""


def _declared(value: Any) -> Any:
    """A name alone as a declaration without a source."""
    return [{"suite": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


class ModelSettings(Section):
    """A causal or encoder-decoder language model from the hub, a folder, or `pocket:base`.

    The model's config decides which of the two it is.
    """

    id: str
    """Hub id, folder, or `pocket:base` for the model that ialign trains."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    tuning: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter, `full` every weight."""
    lora: LoraSettings = Field(default_factory=LoraSettings)
    """Used when `tuning` is `lora`."""
    vocabulary: VocabularySettings | None = None
    """Extend the tokenizer of a causal model for the new languages; null leaves it unchanged."""
    quantization: Literal["nf4", "int8"] | None = None
    """Hold the frozen base in 4 or 8 bits under a LoRA adapter (QLoRA, arXiv 2305.14314); needs bitsandbytes."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of training and scoring; bf16 is three times slower than fp32 on CPUs without native bf16."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = "auto"
    """Attention kernel; `auto` uses FlashAttention if it is installed and applicable (CUDA, bf16), otherwise SDPA."""
    chat: Literal["auto", "never"] = "auto"
    """`auto` uses the tokenizer's chat template when it has one."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the chat template, in training, scoring and serving: `{enable_thinking: false}`."""
    chat_date: date = date.fromisoformat(CHAT_DATE)
    """Day that a chat template prints as the current one, so that an example has the same tokens on every day."""
    separator: str = "\n"
    """Text between prompt and target if no chat template is used; encoder-decoders read the two separately, without
    it."""
    trained_on: Annotated[list[DeclaredTraining], BeforeValidator(_declared)] = Field(default_factory=list)
    """Benchmarks that the base is declared to have been trained on: names, or `{suite: ..., source: ...}`. Their scores
    are marked in every table and export."""
    trust_remote_code: bool = False
    """Allow code from the model's repository to run."""

    @model_serializer(mode="wrap")
    def _without_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        if not fields.get("trained_on"):  # so that hashes of earlier settings stay valid
            fields.pop("trained_on", None)
        return fields

    @field_validator("id")
    @classmethod
    def _absolute_folder(cls, value: str) -> str:
        """Make relative paths absolute: each worker runs in a different folder."""
        return str(Path(value).absolute()) if Path(value).is_dir() else value

    @model_validator(mode="after")
    def _quantized_under_an_adapter(self) -> Self:
        if self.quantization and self.tuning != "lora":
            raise ValueError(
                f"model.quantization is {self.quantization}, but quantised weights cannot be trained; "
                "set model.tuning to lora, or quantization to null"
            )
        return self
