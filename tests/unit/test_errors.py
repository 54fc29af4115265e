"""Errors between processes: each kind comes back as itself, with its sentence and its exit code."""

import json

import pytest

from ialign_ray import errors
from ialign_ray.errors import IalignError

KINDS = [kind for kind in IalignError.__subclasses__() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_itself(kind):
    error = errors.load(json.loads(json.dumps(errors.dump(kind("field is 1; give 2")))))
    assert type(error) is kind
    assert str(error) == "field is 1; give 2"
    assert error.exit_code == kind.exit_code


def test_an_error_of_another_module_keeps_its_sentence():
    assert str(errors.load({"kind": "BusyError", "message": "the queue is full"})) == "the queue is full"
