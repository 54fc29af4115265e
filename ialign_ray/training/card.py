"""The model card that lies beside every adapter."""

from __future__ import annotations

from typing import Any

import yaml

from ialign_ray.config import Experiment


def model_card(experiment: Experiment, record: dict[str, Any]) -> str:
    """README.md of a model folder, with the hub's front matter."""
    languages, model = experiment.languages, experiment.model
    adapter = model.tuning == "lora"
    front = {
        "base_model": model.id,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "language": [*languages.l1, *languages.l2],
        "tags": ["ialign", "cross-lingual", "experience-replay"],
    }
    load = (
        f'base = AutoModelForCausalLM.from_pretrained("{model.id}")\n'
        'model = PeftModel.from_pretrained(base, "THIS FOLDER")'
        if adapter
        else 'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")'
    )
    drawn = "\n".join(f"| {name} | {n} |" for name, n in record["drawn"]["by_source"].items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {experiment.name}: {record["run"]}

`{model.id}` aligned to {", ".join(languages.l2) or "no new language"} by continual cross-lingual instruction
tuning (InstructAlign, arXiv 2305.13627), with replay of old instructions at a dose of {experiment.replay.ratio:g}.

```python
{load}
```

Trained for {experiment.train.steps} steps of {experiment.train.batch_size} examples
({record["drawn"]["tokens"]:,} tokens), seed {experiment.train.seed}. The settings are in `experiment.yaml`,
what was read and dropped in `record.json`. Scores with intervals and baselines come from `ialign evaluate`;
nothing about quality follows from this card alone.

| source | examples drawn |
|---|---|
{drawn}
"""
