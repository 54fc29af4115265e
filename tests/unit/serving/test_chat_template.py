"""Templates of strangers' models: what they may cost, and what they see."""

import copy
import os
import time

import pytest

from ialign_ray.errors import ModelError
from ialign_ray.serving import chat_template
from ialign_ray.serving.chat_template import ChatTemplate, RefusedTurnsError, template_of

TURNS = [{"role": "user", "content": "good day"}]
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


@pytest.fixture(scope="module")
def plain():
    return ChatTemplate(PLAIN, {"eos_token": "</s>"})


def test_a_template_is_rendered_as_the_tokenizer_does(plain, tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = PLAIN
    turns = [*TURNS, {"role": "assistant", "content": "ก {{ x }} \udc00"[:9]}, *TURNS]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    template = template_of(tokenizer)
    assert template.render(turns) == expected
    assert template_of(copy.deepcopy(tokenizer)) is template  # models with equal templates share the process


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 99999999 }}",
    "a text without end": "{{ 'a' * 9999999999 }}",
    "texts that double": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a width": "{{ '%999999999d' % 1 }}",
    "the system": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "no template": "{% for %}",
    "an unknown filter": "{{ messages | nothing }}",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_template_is_refused_in_time(how, plain, monkeypatch):
    monkeypatch.setattr(chat_template, "RENDER_S", 0.5)
    hostile = ChatTemplate(HOSTILE[how], {})
    # the process is shared here, since each takes seconds to start
    hostile._connection, hostile._end = plain._connection or plain._start(), plain._end
    begin = time.monotonic()
    with pytest.raises(ModelError, match="is refused"):
        hostile.check("mine/3")
    assert time.monotonic() - begin < 1.5
    if hostile._connection is None:
        plain._connection = plain._end = None
    assert plain.render(TURNS) == "<user>good day</s>>"


def test_a_conversation_that_a_template_does_not_accept_is_told_apart(plain):
    strict = ChatTemplate("{{ raise_exception('no') }}", {})
    strict._connection, strict._end = plain._connection or plain._start(), plain._end
    with pytest.raises(RefusedTurnsError):
        strict.render(TURNS)
    strict.check("mine/3")


def test_the_process_has_no_secrets_and_ends_with_its_template(monkeypatch):
    monkeypatch.setenv("IALIGN_API_KEYS", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    template = ChatTemplate(PLAIN, {"eos_token": ""})
    template.render(TURNS)
    pid = template._end.peek()[2][0].pid
    with open(f"/proc/{pid}/environ") as file:  # noqa: PTH123
        assert "secret" not in file.read()
    del template
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
        assert time.monotonic() < deadline
        time.sleep(0.01)
