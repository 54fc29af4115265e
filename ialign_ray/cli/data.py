"""`ialign data`: build a corpus, inspect it, and draw samples of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ialign_ray.cli.options import ExperimentFile, Overrides, console, load, say
from ialign_ray.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from ialign_ray.config import Experiment
    from ialign_ray.corpus.build import Built
    from ialign_ray.tokens.encode import Encoder

data = typer.Typer(
    name="data",
    help="Build parallel corpora, inspect them, and draw samples.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@data.command()
def build(file: ExperimentFile, overrides: Overrides = None) -> None:
    """Read, clean, decontaminate and split every corpus; finished parts are reused.

    Example: `ialign data build jobs/experiments/pocket.yaml --set corpora.0.holdout=0.05`
    """
    from ialign_ray.workflows.build import build

    built = build(load(file, overrides), console)
    info = built.folder / "README.md"
    say("", f"Corpus:    {built.folder}", f"Its info:  {info}", f"Inspect:   ialign data inspect {file}")


@data.command()
def inspect(
    file: ExperimentFile,
    overrides: Overrides = None,
    page: Annotated[Path | None, typer.Option(help="HTML page to write. Default: next to the built corpus.")] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens/--no-tokens", help="Also measure the model's tokenizer, or not.")
    ] = True,
) -> None:
    """Show counts, lengths, the most anomalous texts, tokens and truncation, on the terminal and as an HTML page.

    Example: `ialign data inspect jobs/experiments/pocket.yaml --page corpus.html`
    """
    from ialign_ray.inspection.page import write_page
    from ialign_ray.inspection.report import inspect
    from ialign_ray.inspection.terminal import show_report
    from ialign_ray.streaming.curate import curate

    experiment = load(file, overrides)
    encoder = _encoder(experiment) if tokens else None
    built, _ = curate(experiment, console, cluster=True)
    if encoder and experiment.model.vocabulary:
        encoder = _extended(experiment, built)
    report = inspect(experiment, built, encoder)
    show_report(console, report)
    say("", f"Page: {write_page(report, page or built.folder.with_name(f'{built.folder.name}.html'))}")


@data.command()
def sample(
    file: ExperimentFile,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of rows or texts.")] = 5,
    corpus: Annotated[str | None, typer.Option(help="Sample this corpus only. Default: all.")] = None,
    language: Annotated[
        str | None, typer.Option(help="Sample only rows with a text in this language. Default: any.")
    ] = None,
    dropped: Annotated[
        str | None, typer.Option(help="Show texts dropped by this cleaning step instead of rows.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to sample from: `train` or `heldout`.")] = "train",
    rendered: Annotated[
        bool, typer.Option("--rendered", help="Show the prompts and targets made from the rows.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines.")] = False,
) -> None:
    """Print random rows, texts that a cleaning step dropped, or the prompts that training makes from rows.

    Example: `ialign data sample experiment.yaml -n 3 --language jav --rendered`
    """
    from ialign_ray.inspection.sample import Wanted, rendered_rows, sampled_drops, sampled_rows
    from ialign_ray.streaming.curate import curate

    if dropped and rendered:
        raise ConfigError(
            "--dropped and --rendered exclude each other: no prompt is made from a dropped text; use one of them"
        )
    experiment = load(file, overrides)
    built, _ = curate(experiment, Console(stderr=True), cluster=True)
    wanted = Wanted(n, corpus, _canonical(language), split, dropped, seed)
    wanted.check(experiment, built)
    draw = sampled_drops if dropped else rendered_rows if rendered else sampled_rows
    _print(draw(experiment, built, wanted), as_json)


def _encoder(experiment: Experiment) -> Encoder:
    """Load the tokenizer before the corpus is built, so that a missing model is reported early."""
    from ialign_ray.training.pocket import ensure_model
    from ialign_ray.training.prepare import make_encoder

    try:
        ensure_model(experiment, console)
        return make_encoder(experiment)
    except ModelError as error:
        raise ModelError(f"{error} (or inspect the texts only, with --no-tokens)") from error


def _extended(experiment: Experiment, built: Built) -> Encoder:
    """Return the tokenizer that training would use, with the pieces that `model.vocabulary` learns from the corpus."""
    from ialign_ray.corpus.pairs import load_parallel
    from ialign_ray.training.prepare import make_encoder, new_texts

    return make_encoder(experiment, new_texts(load_parallel(experiment, built).pairs, experiment.languages.l2))


def _canonical(language: str | None) -> str | None:
    """Normalise a language code (`jv` -> `jav`); an unknown one is returned as it is, to be refused later."""
    from ialign_ray.languages import canonical

    try:
        return canonical(language) if language else None
    except ConfigError:
        return language


def _print(records: Iterable[dict[str, Any]], as_json: bool) -> None:
    records = list(records)
    if as_json:
        sys.stdout.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        return
    for record in records:
        console.print(_panel(record))
    if not records:
        console.print("No rows match these filters.")


def _panel(record: dict[str, Any]) -> Panel:
    """Format a row, a dropped text or a prompt: long texts cut, control characters made visible."""
    from ialign_ray.inspection.terminal import clipped

    if "prompt" in record:
        title = f"{record['task']} {record['source_language']} → {record['target_language']} ({record['template']})"
        body = f"{clipped(record['prompt'])}\n\n→ {clipped(record['target'])}"
    elif "step" in record:
        title = f"dropped by {record['step']}"
        pivot = f"\npivot: {clipped(record['pivot'])}" if record["pivot"] is not None else ""
        body = f"{record['language']}: {clipped(record['text'])}{pivot}"
    else:
        title = record["corpus"]
        body = "\n".join(f"{code}: {clipped(text)}" for code, text in record["texts"].items())
    place = Text(clipped(f"{record['id'][:120]}  {record['file']}:{record['line']}"))
    return Panel(Text(body), title=Text(title), subtitle=place, title_align="left", subtitle_align="left")
