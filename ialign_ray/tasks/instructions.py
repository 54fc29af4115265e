"""Instructions and conversations of files in their usual forms, as requests, answers and turns.

==============================================  =====================================================================
columns                                         example
==============================================  =====================================================================
inputs, targets                                 FLAN, P3, xP3
prompt, completion or response                  texts, or lists of turns (TRL)
instruction, input or context, output/response  Alpaca, Dolly
question, answer or response                    OpenOrca, with `system_prompt`
messages, conversations or conversation         OpenAI's `role` and `content`, ShareGPT's `from` and `value`
message_id, parent_id, role, text               OASST, one message per row: the best-ranked thread of each tree
prompt with replies                             OASST, one tree per row: the same
==============================================  =====================================================================

A number or a truth value is the answer that Python writes for it (`0`, `False`). Parts of type text are joined by line
feeds, as the API joins them. Rows with an image, audio or a tool call are dropped and counted; whatever else is not a
text or a turn is refused with its line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ialign_ray.config import DataSource, InstructionSource
from ialign_ray.config.slots import slots_of
from ialign_ray.corpus.chunks import LINE
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.tasks.templating import fill

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_ROLES: Final = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human", "prompter", "question"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "chatbot", "answer"), ASSISTANT),
}
_TOOLS: Final = ("tool", "function", "function_call", "function_response", "observation", "ipython")
_CALLS: Final = ("tool_calls", "function_call")
_TEXT_PARTS: Final = (None, "text", "input_text", "output_text")
_THREAD: Final = "__thread"
"""Column of the messages of one thread, made of several rows."""
_TEXTS: Final = (
    (_THREAD,),
    ("inputs", None, "targets"),
    ("prompt", None, "completion"),
    ("messages",),
    ("conversations",),
    ("conversation",),
    ("prompt", None, "response"),
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("instruction", "input", "response"),
    ("instruction", None, "output"),
    ("instruction", None, "response"),
    ("instruction", None, "completion"),
    ("question", None, "answer"),
    ("question", None, "response"),
)
"""Known forms, the first that fits: request, further text and answer, or conversation."""
_RULES: Final = ("system", "system_prompt")
Turns = tuple[Mapping[str, str], ...]


class Instruction(NamedTuple):
    """One row of an instruction file."""

    row_id: str
    source: str
    inputs: str
    """The request; of a conversation, the texts of all turns before the last answer, a line each."""
    targets: str
    """The answer; of a conversation the last one. Empty if the row contains no instruction."""
    turns: Turns = ()
    """`role` and `content` of each turn up to the last answer, of more than a request and its answer."""


@dataclass
class InstructionFile:
    """The rows of a source, one for each row of its file (or tree of messages), and the number that were dropped."""

    rows: list[Instruction]
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> rows, which are empty in `rows`: `unsupported` (image, audio, tool call), and with `bad_rows: drop`
    `malformed`."""


class _UnsupportedPartError(Exception):
    """A row has a part that is not text."""


class _WrongShapeError(Exception):
    """A value is neither text nor a turn; the message says which."""


def instructions(source: DataSource, base: str) -> list[Instruction]:
    """Every row of `read_instructions`."""
    return read_instructions(source, base).rows


def read_instructions(source: DataSource, base: str) -> InstructionFile:
    """Read the instructions of a source in any known form, or as its `columns` name them.

    Raises DataError for columns of no known form, or a value that is neither text nor turns.
    """
    table = read_table(source, base, _needed(source), structured=True, lines=True)
    names = [name for name in table.column_names if name != LINE]
    rows = table.to_pylist()
    if not _mapped(source) and {"message_id", "parent_id", "role", "text"} <= set(names):
        rows, names = list(_threads(rows)), [*names, _THREAD]
    read = _reader(source, names)
    named, found = "source" in names, InstructionFile([])
    for number, row in enumerate(rows):
        identity = number if row.get("id") is None else row["id"]
        name = str(row["source"]) if named else source.origin
        try:
            turns = read(row)
        except _UnsupportedPartError:
            found.dropped["unsupported"] += 1
            turns = ()
        except _WrongShapeError as error:
            if source.bad_rows != "drop":
                raise DataError(
                    f"{source.origin}:{row[LINE]}: {error}; fix the row, name other `columns`, or set bad_rows: drop"
                ) from error
            found.dropped["malformed"] += 1
            turns = ()
        found.rows.append(_instruction(f"{source.origin}:{identity}", name, turns))
    return found


def _instruction(row_id: str, source: str, turns: Turns) -> Instruction:
    while turns and turns[-1]["role"] != ASSISTANT:
        turns = turns[:-1]
    if not turns or not all(turn["content"].strip() for turn in turns):
        return Instruction(row_id, source, "", "")
    before = "\n".join(turn["content"] for turn in turns[:-1])
    alone = [turn["role"] for turn in turns] == [USER, ASSISTANT]
    return Instruction(row_id, source, before, turns[-1]["content"], () if alone else turns)


def _mapped(source: DataSource) -> bool:
    return isinstance(source, InstructionSource) and bool(source.columns)


def _needed(source: DataSource) -> list[str]:
    if not isinstance(source, InstructionSource):
        return []
    return [*source.columns.values(), *(slots_of(source.template) if source.template else ())]


def _reader(source: DataSource, names: Sequence[str]) -> Callable[[dict[str, Any]], Turns]:
    if isinstance(source, InstructionSource) and source.columns:
        columns = source.columns
        if "turns" in columns:
            return lambda row: _ruled(row, columns.get("system"), _conversation(row[columns["turns"]]))
        template = source.template or f"{{{columns['inputs']}}}"
        return lambda row: _ruled(row, columns.get("system"), _asked(_filled(template, row), row[columns["targets"]]))
    for form in _TEXTS:
        if not {name for name in form if name} <= set(names):
            continue
        rules = None if form[0] == "inputs" else next((name for name in _RULES if name in names), None)
        if len(form) == 1:
            return lambda row: _ruled(row, rules, _conversation(row[form[0]]))
        request, more, answer = form
        return lambda row: _ruled(row, rules, _asked(_joined(row, request, more), row[answer]))
    if "prompt" in names:
        return lambda row: _conversation(_tree_thread(row["prompt"]))
    raise DataError(
        f"{source.origin} has columns {', '.join(names)}; instructions need inputs/targets, prompt/completion, "
        "instruction/output, question/answer, messages or conversations, or `columns` that name theirs"
    )


def _ruled(row: Mapping[str, Any], column: str | None, turns: Turns) -> Turns:
    """The turns after the system text of a column, unless they have some."""
    rules = _text(row[column]) if column else ""
    if not rules.strip() or any(turn["role"] == SYSTEM for turn in turns):
        return turns
    return ({"role": SYSTEM, "content": rules}, *turns)


def _joined(row: Mapping[str, Any], request: str, more: str | None) -> Any:
    further = _text(row[more]) if more else ""
    return f"{_text(row[request])}\n\n{further}" if further.strip() else row[request]


def _filled(template: str, row: Mapping[str, Any]) -> Any:
    slots = slots_of(template)
    if template == f"{{{slots[0]}}}":
        return row[slots[0]]
    return fill(template, {name: _text(row[name]) for name in slots})[0]


def _asked(request: Any, answer: Any) -> Turns:
    """Turns of a request and an answer, each a text or a list of turns."""
    first = _conversation(request) if isinstance(request, list) else ({"role": USER, "content": _text(request)},)
    last = _conversation(answer) if isinstance(answer, list) else ({"role": ASSISTANT, "content": _text(answer)},)
    return (*first, *last)


def _conversation(value: Any) -> Turns:
    """Turns of a list of messages, or of its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _WrongShapeError(f"the conversation is the text {_shown(value)}, not a list of turns") from error
    if value is None:
        return ()
    if not isinstance(value, list):
        raise _WrongShapeError(f"the conversation is {_shown(value)}, not a list of turns")
    turns = tuple(_turn(one) for one in value)
    return tuple(turn for turn in turns if turn["role"] != SYSTEM or turn["content"].strip())


def _turn(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise _WrongShapeError(f"a turn is {_shown(value)}, not an object with role and content")
    role = value.get("role") if value.get("role") is not None else value.get("from")
    if role in _TOOLS or any(value.get(name) for name in _CALLS):
        raise _UnsupportedPartError
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise _WrongShapeError(f"a turn has the role {_shown(role)}; use system, user or assistant")
    content = next((value[name] for name in ("content", "value", "text") if value.get(name) is not None), None)
    return {"role": _ROLES[role.lower()], "content": _content(content)}


def _content(value: Any) -> str:
    """Text of a content, or of its parts."""
    if not isinstance(value, list):
        return _text(value)
    texts = []
    for part in value:
        if not isinstance(part, Mapping):
            texts.append(_text(part))
        elif part.get("type") in _TEXT_PARTS and part.get("text") is not None:
            texts.append(_text(part["text"]))
        else:
            raise _UnsupportedPartError
    return "\n".join(texts)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):  # pandas writes a missing number as NaN
        return ""
    if isinstance(value, str | bool | int | float):
        return str(value)
    raise _WrongShapeError(f"a text is {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# --- trees of messages (OASST) ------------------------------------------------------------------------


def _threads(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first message of each tree, with the best-ranked thread under it as `thread`."""
    known = {row["message_id"] for row in rows}
    replies: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        replies.setdefault(row["parent_id"] if row["parent_id"] in known else None, []).append(row)
    for root in replies.get(None, []):
        thread = [root]
        while following := replies.get(thread[-1]["message_id"]):
            if len(thread) > len(rows):  # a message that is its own ancestor
                break
            thread.append(_best(following))
        yield {**root, "id": root["message_id"], _THREAD: thread}


def _tree_thread(root: Any) -> list[Any]:
    """The best-ranked thread of a nested tree. Raises _WrongShapeError for another value."""
    if not isinstance(root, Mapping) or not isinstance(root.get("replies"), list):
        raise _WrongShapeError(f"the prompt is {_shown(root)}, without an answer")
    thread = [root]
    while following := thread[-1].get("replies"):
        thread.append(_best(following))
    return thread


def _best(replies: Sequence[Mapping[str, Any]]) -> Any:
    """The reply that people ranked first; the first one if none is ranked."""
    return min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
