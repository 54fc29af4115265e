"""Errors between processes: each kind comes back as itself, with its sentence and its exit code."""

import json

import pytest

from ialign_ray import errors
from ialign_ray.errors import IalignError


@pytest.mark.parametrize("kind", IalignError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_error_comes_back_as_itself(kind):
    error = errors.load(json.loads(json.dumps(errors.dump(kind("field is 1; give 2")))))
    assert type(error) is kind
    assert str(error) == "field is 1; give 2"
    assert error.exit_code == kind.exit_code
