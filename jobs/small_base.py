"""Train a small base model from nothing on an instruction file: a BPE tokenizer and a Llama of a million parameters.

    python jobs/small_base.py runs/miniature-base/instructions.jsonl runs/miniature-base/model --steps 1000

Rows whose `split` is `train` are learned (all, where the file has no such column). One thread; a finished model stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ialign_ray.config import DataSource, TrainConfig
from ialign_ray.corpus.readers import read_table
from ialign_ray.storage import once
from ialign_ray.tasks.replay import instruction_pool
from ialign_ray.training.pocket import Phase, train_small


def main() -> None:
    """Read the file, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instructions", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--vocabulary", type=int, default=4096)
    given = parser.parse_args()
    source = DataSource(path=str(given.instructions.absolute()))
    if "split" in read_table(source).column_names:
        source = source.model_copy(update={"where": {"split": "train"}})
    pool = instruction_pool(source, ".")
    recipe = TrainConfig(
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        warmup=0.05,
        weight_decay=0.1,
        checkpoint_every=given.steps,
    )
    console = Console()
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("base", total=recipe.steps)

        def make(folder: Path) -> None:
            def on_step(step: int) -> None:
                bar.update(task, completed=step)

            # 0.08: as the base of the published miniature began
            train_small(folder, pool, [Phase(recipe)], given.vocabulary, 0.08, on_step)

        once(given.to, make)
    console.print(f"{given.to}: trained on {pool.num_rows:,} instructions", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
