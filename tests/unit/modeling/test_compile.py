"""torch.compile for real: it needs a C++ compiler, and half a minute for two small blocks."""

import shutil

import pytest
import torch
from test_loop import Lost, Setting, lose_at, same, weights

from ialign_ray.modeling.architecture import compile_blocks
from ialign_ray.modeling.load import save_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.skipif(not (shutil.which("g++") or shutil.which("c++")), reason="needs a C++ compiler"),
]


def test_a_compiled_model_trains_as_it_is_resumes_and_keeps_its_names(experiment_data, tmp_path):
    setting = Setting(experiment_data, tmp_path, "full")
    plain, _ = setting.run("plain")
    load = setting.model

    def compiled():
        model = load()
        compile_blocks(model)
        return model

    setting.model = compiled
    torch._dynamo.utils.counters.clear()
    whole, _ = setting.run("whole")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert weights(whole).keys() == weights(plain).keys()
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(whole)[name], value, atol=1e-3, rtol=1e-3)
    with pytest.raises(Lost):
        setting.run("broken", lose_at(5))
    resumed, start = setting.run("broken")
    assert start == 3
    assert same(weights(whole), weights(resumed))
    save_model(whole, tmp_path / "saved")
    assert not any("_orig_mod" in p.read_text(errors="ignore") for p in (tmp_path / "saved").iterdir())
