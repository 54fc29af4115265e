"""A survey on replicas gives the table of one in this process, and a user's error reaches the driver."""

from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console
from tiny_corpus import sentences

from ialign_ray.errors import ClusterError, ModelError
from ialign_ray.survey.table import NUMBERS
from ialign_ray.workflows.survey import CSV, SurveyRequest, survey

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUIET = Console(quiet=True)


@pytest.fixture
def request_of(tmp_path, tiny_model_folder):
    pd.DataFrame(sentences(12))[["eng", "ind", "jav"]].to_csv(tmp_path / "data.csv", index=False)
    return SurveyRequest(str(tiny_model_folder), str(tmp_path / "data.csv"), limit=6, to=tmp_path / "here")


def test_replicas_measure_as_one_process_does(request_of, tmp_path, ray_cluster):
    here = pd.read_csv(survey(request_of, QUIET) / CSV)
    there = pd.read_csv(survey(replace(request_of, workers=2, to=tmp_path / "there"), QUIET) / CSV)
    assert here["code"].tolist() == there["code"].tolist()
    for name in NUMBERS:
        assert here[name].tolist() == pytest.approx(there[name].tolist(), abs=1e-3, nan_ok=True)


def test_an_error_of_a_replica_and_too_many_replicas_are_one_sentence(request_of, tmp_path, ray_cluster):
    words = " ".join(["kata"] * 2000)
    pd.DataFrame({"eng": [words, "one"], "jav": [words, "siji"]}).to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(ModelError, match="--longest"):
        survey(replace(request_of, workers=1, data=str(tmp_path / "long.csv"), longest=None), QUIET)
    with pytest.raises(ClusterError, match="--workers"):
        survey(replace(request_of, workers=1000), QUIET)
