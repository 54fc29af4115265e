"""Names of the runs that are evaluated side by side."""

from pathlib import Path

import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.workflows.evaluate import named

ONE, TWO = Path("/runs/one/align"), Path("/runs/two/align")


def test_no_run_takes_the_place_of_another():
    found = named([ONE, TWO, ONE, Path("/runs/one/base"), Path("/runs/one/length")], Path("/runs/one/control-s0"))
    assert found == {
        "control": Path("/runs/one/control-s0"),
        "align": ONE,
        "two:align": TWO,
        "one:base": Path("/runs/one/base"),
        "one:length": Path("/runs/one/length"),
    }


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"/two/align and /other/two/align are both called 'two:align'; rename"):
        named([ONE, TWO, Path("/other/two/align")], None)
