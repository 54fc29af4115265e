"""The old instructions of jobs/experiments/miniature.yaml, in English and Indonesian, as one JSONL file.

    python jobs/miniature_instructions.py DATA runs/miniature-base/instructions.jsonl

Split `train` is what the base learns and replay draws from, `heldout` measures forgetting. No row holds a sentence of
the evaluation sets. Sentiment is NusaX' training split and NusaTranslation's Indonesian, not SmSA, which holds NusaX'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ialign_ray.config import load_experiment
from ialign_ray.corpus.identity import share_of
from ialign_ray.storage import write_text
from ialign_ray.streaming.curate import evaluation_index
from ialign_ray.tasks.instructions import Instruction
from ialign_ray.tasks.replay import leaking

SENTIMENT = {
    "ind": ["Kalimat: {}\nApa sentimen kalimat ini: {}?", "{}\nSentimen teks di atas, {}:", "{}\nPilih {}."],
    "eng": ["Sentence: {}\nWhat is the sentiment of this sentence: {}?", "{}\nSentiment of the text above, {}:"],
}
WORDS = {
    "ind": {"negative": "negatif", "neutral": "netral", "positive": "positif"},
    "eng": {"negative": "negative", "neutral": "neutral", "positive": "positive"},
}
TRANSLATE = {("eng", "ind"): "Terjemahkan ke bahasa Indonesia: {}", ("ind", "eng"): "Translate into English: {}"}


def sentiment(data: Path) -> Iterator[tuple[str, str, str]]:
    """(source, inputs, targets): three labels from NusaX' training split, two from NusaTranslation's Indonesian."""
    nusax = pd.read_parquet(data / "nusax/nusax.parquet")
    for row in nusax[nusax["split"] == "train"].to_dict("records"):
        for code, templates in SENTIMENT.items():
            offered = {"ind": "negatif, netral atau positif", "eng": "negative, neutral or positive"}[code]
            yield from (("nusax/train", t.format(row[code], offered), WORDS[code][row["label"]]) for t in templates)
    other = pd.read_parquet(data / "nusawrites/nusatranslation.parquet")
    other = other[other["task"] == "senti"].drop_duplicates("ind").groupby("label").head(1400)
    for row in other.to_dict("records"):
        text = SENTIMENT["ind"][0].format(row["ind"], "negatif atau positif")
        yield "nusatranslation/sentiment", text, WORDS["ind"][row["label"]]


def others(data: Path) -> Iterator[tuple[str, str, str]]:
    """(source, inputs, targets): FLORES dev between the old languages, and short instructions of the replay pool."""
    flores = pd.read_parquet(data / "flores200/flores200.parquet")
    for row in flores[flores["split"] == "dev"].to_dict("records"):
        pair = {"eng": row["eng_Latn"], "ind": row["ind_Latn"]}
        yield from (("flores/dev", text.format(pair[a]), pair[b]) for (a, b), text in TRANSLATE.items())
    replay = pd.read_parquet(data / "replay/replay.parquet")
    short = (replay["inputs"].str.len() < 400) & (replay["targets"].str.len() < 150)
    chosen = replay[short & replay["language"].isin(["eng", "ind"])]
    yield from zip(chosen["source"], chosen["inputs"], chosen["targets"], strict=True)


def main(data: Path, path: Path) -> None:
    """Write all but what leaks; 300 rows of the replay pool are held out."""
    experiment = load_experiment("jobs/experiments/miniature.yaml", [f"storage.data={data}"])
    foreign = [suite for suite in experiment.evaluate.suites if suite.kind != "instructions"]  # those are made here
    evaluate = experiment.evaluate.model_copy(update={"suites": foreign})
    each_once = {row[1]: row for row in (*sentiment(data), *others(data))}  # no held-out request is learned as well
    rows = [Instruction(str(k), *row) for k, row in enumerate(each_once.values())]
    exact, overlap = leaking(rows, evaluation_index(experiment.model_copy(update={"evaluate": evaluate})))
    kept = [row for row, leaks in zip(rows, exact | overlap, strict=True) if not leaks]
    made_here = ("nusax", "nusatranslation", "flores")
    held = set(sorted((row.row_id for row in kept if not row.source.startswith(made_here)), key=share_of)[:300])
    split = {row.row_id: "heldout" if row.row_id in held else "train" for row in kept}
    named = [{"id": i, "source": s, "inputs": a, "targets": b, "split": split[i]} for i, s, a, b, _ in kept]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named))
    print(f"{len(kept):,} instructions; {len(rows) - len(kept)} were left out, as they hold evaluation sentences")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
