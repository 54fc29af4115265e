"""Base of the request models and their types. OpenAI parameters that we do not support are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, LiteralString

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidatorFunctionWrapHandler, model_validator
from pydantic import ValidationError as Failed
from pydantic.functional_validators import AfterValidator, BeforeValidator, WrapValidator
from pydantic_core import PydanticCustomError

MOST_FIELDS: Final = 100
"""Fields of one object; no request has as many."""
MOST_ITEMS: Final = 10_000
"""Messages of a conversation, prompts or labels; `serve.limits` allows far fewer prompts and labels."""


def one_sentence(message: LiteralString) -> WrapValidator:
    """Describe a union's values in one sentence; pydantic would list an error for each member."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except Failed as error:
            raise PydanticCustomError("invalid_type", message) from error

    return WrapValidator(check)


def few_entries(most: int) -> BeforeValidator:
    """Refuse a larger object before its entries are validated: each wrong one would be an error of a kilobyte.

    Lists have `fail_fast` for that.
    """

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > most:
            raise PydanticCustomError("too_long", "there are too many entries; remove some")
        return value

    return BeforeValidator(check)


def refused(param: str, reason: str, code: str = "invalid_value") -> PydanticCustomError:
    """Error in the combination of a parameter with others."""
    return PydanticCustomError("refused", "{reason}", {"code": code, "param": param, "reason": reason})


def _unicode(text: str) -> str:
    """Refuse half of a surrogate pair: JSON can spell it, but it is not a character and breaks tokenizers."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("invalid_text", "half of a surrogate pair is not a character; remove it") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Name = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
Filled = Annotated[Text, StringConstraints(min_length=1)]

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
"""OpenAI parameters that we do not support -> values without effect, which are accepted, as null is."""


class Body(BaseModel):
    """Base of all requests: strict about types, and about unknown parameters, which might change the answer."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _supported(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if len(data) > MOST_FIELDS:  # an error for each of them would take a kilobyte
            raise refused("body", f"there are {len(data)} parameters in one object; remove those that are unknown")
        for name in _NEUTRAL.keys() & data.keys():
            if data[name] is not None and data[name] not in _NEUTRAL[name]:
                raise refused(name, f"this server does not support {name}; remove it", "unsupported_parameter")
        return {key: value for key, value in data.items() if key not in _NEUTRAL}
