from __future__ import annotations

import pytest
import torch

from ialign_ray.config import TrainConfig
from ialign_ray.training.pocket import Phase, train_base


@pytest.mark.slow
def test_the_base_is_an_ordinary_model_folder(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    seen = []
    recipe = [Phase(TrainConfig(steps=3, batch_size=4, learning_rate=1e-3, checkpoint_every=3))]
    train_base(tmp_path / "base", recipe, seen.append)
    assert seen == [1, 2, 3]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    text = "Kalimat: makanannya enak sekali!"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert model(**tokenizer(text, return_tensors="pt")).logits.isfinite().all()
    assert not (tmp_path / "base" / "scratch").exists()
    assert sum(p.numel() for p in model.parameters()) < 2_000_000
    train_base(tmp_path / "twin", recipe)
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "twin")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
