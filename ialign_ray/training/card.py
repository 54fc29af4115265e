"""The model card of every adapter's folder."""

from __future__ import annotations

from typing import Any

import yaml

from ialign_ray.config import Experiment


def model_card(experiment: Experiment, record: dict[str, Any], *, seq2seq: bool = False) -> str:
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
    by_source, shares = record["drawn"]["by_source"], record["drawn"]["loss_share"]
    drawn = "\n".join(
        f"| {name} | {n} | {n / sum(by_source.values()):.1%} | {shares[name]:.1%} |" for name, n in by_source.items()
    )
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {experiment.name}: {record["run"]}

`{model.id}` aligned to {", ".join(languages.l2) or "no new language"} by continual cross-lingual instruction
tuning (InstructAlign, arXiv 2305.13627), with replay of old instructions at a ratio of {experiment.replay.ratio:g}.

```python
{_loading(experiment, "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM")}
```

Trained for {record["ending"]["step"]} steps of {experiment.train.batch_size} examples
({record["drawn"]["tokens"]:,} tokens), seed {experiment.train.seed}; the weights are those of step
{record["ending"]["kept"]}. The settings are in `experiment.yaml`, counts of rows read and dropped in
`record.json`. Scores with intervals and baselines come from `ialign evaluate`; this card alone says nothing about
quality.

| source | examples drawn | share of the examples | share of the loss |
|---|---|---|---|
{drawn}
"""


def _loading(experiment: Experiment, loader: str) -> str:
    """Code that loads the folder with only transformers and peft."""
    model = experiment.model
    lines = ['tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")']
    if model.tuning == "full":
        return "\n".join([*lines, f'model = {loader}.from_pretrained("THIS FOLDER")'])
    revision = f', revision="{model.revision}"' if model.revision else ""
    lines.append(f'base = {loader}.from_pretrained("{model.id}"{revision})')
    if model.quantization is not None:
        lines.append(f"# Trained over the base in {model.quantization}; full weights answer slightly differently.")
    if model.vocabulary is not None:
        lines += [
            "# The tokenizer has new pieces, whose rows are in the adapter; a padded matrix must not shrink.",
            "rows = max(len(tokenizer), base.get_input_embeddings().num_embeddings)",
            "base.resize_token_embeddings(rows, mean_resizing=False)",
        ]
    return "\n".join([*lines, 'model = PeftModel.from_pretrained(base, "THIS FOLDER")'])
