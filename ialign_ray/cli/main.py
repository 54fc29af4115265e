"""`ialign`: one experiment file, every step from checking it to an exported model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core
from rich.console import Console

from ialign_ray.cli.data import data
from ialign_ray.cli.jobs import jobs, stop, submit
from ialign_ray.cli.registry import DEFAULT_REGISTRY, RegistryOption, models, promote, register, rollback, say
from ialign_ray.cli.serve import serve
from ialign_ray.errors import IalignError, ModelError
from ialign_ray.process import prepare_process


class Commands(typer.core.TyperGroup):
    """Passes an interruption on to `main`; typer itself would end without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise IalignError(
                "interrupted; finished checkpoints and predictions are kept, go on with --resume"
            ) from error


app = typer.Typer(
    name="ialign",
    cls=Commands,
    help="Teach an instruction-tuned language model new languages without losing the old ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(data)
app.add_typer(serve)

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment YAML.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a field, e.g. `--set train.steps=500`. May be repeated."),
]
RunName = Annotated[str, typer.Option("--run", help="Name of this run under `storage.runs`/`name`.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", "-a", help="Run folder or model folder.")]

console = Console()


@app.command()
def validate(file: ExperimentFile, overrides: Overrides = None) -> None:
    """Check everything without a cluster: fields, files, languages, model; print counts and examples.

    Example: `ialign validate jobs/experiments/pocket.yaml --set replay.ratio=0.25`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.workflows.validate import preview

    preview(load_experiment(file, overrides or []), console)


@app.command()
def align(
    file: ExperimentFile,
    overrides: Overrides = None,
    run: RunName = "align",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest intact checkpoint.")] = False,
) -> None:
    """Train one run: Ray Data streams, Ray Train trains, an adapter folder comes out.

    Example: `ialign align experiment.yaml --set train.steps=500 --run first`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.training.pocket import ensure_model
    from ialign_ray.training.runs import MODEL
    from ialign_ray.training.trainer import align as train

    experiment = load_experiment(file, overrides or [])
    ensure_model(experiment, console)
    folder = train(experiment, run, resume=resume, console=console)
    console.print(f"Model: {folder / MODEL}\nNext:  ialign evaluate {file} --adapter {folder}", soft_wrap=True)


@app.command()
def evaluate(
    file: ExperimentFile,
    adapter: Annotated[list[Path], typer.Option("--adapter", "-a", help="Finished run; may be repeated.")],
    control: Annotated[Path | None, typer.Option(help="Finished replay-only run (replay.ratio 1).")] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="Only this suite, or `lm_eval:TASK` of lm-evaluation-harness; may be repeated."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Score finished runs beside base, baselines and control, with intervals and a verdict in words.

    Example: `ialign evaluate experiment.yaml --adapter runs/mine/align --control runs/mine/control`

    Example: `ialign evaluate experiment.yaml --adapter runs/mine/align --suite lm_eval:xcopa_id`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.evaluation.evaluate import evaluate as score
    from ialign_ray.evaluation.scoring.harness import selected
    from ialign_ray.training.pocket import ensure_model

    experiment = selected(load_experiment(file, overrides or []), suite or [])
    ensure_model(experiment, console)
    score(experiment, [finished(a) for a in adapter], finished(control) if control else None, console)


@app.command()
def compare(file: ExperimentFile, overrides: Overrides = None) -> None:
    """Train and score base, control and every arm of `compare`; finished parts are kept.

    Example: `ialign compare jobs/experiments/pocket.yaml --set compare.seeds=[0,1]`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.training.pocket import ensure_model
    from ialign_ray.workflows.compare import compare as run_all

    experiment = load_experiment(file, overrides or [])
    ensure_model(experiment, console)
    run_all(experiment, console)
    folder = Path(experiment.storage.runs) / experiment.name
    console.print(
        f"\nTable and verdict: {folder / 'RESULTS.md'}\nScores:            {folder / 'results.csv'}\n"
        f"Curves:            tensorboard --logdir {folder}   or   mlflow ui --backend-store-uri "
        f"{experiment.tracking_uri}",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def ablate(
    file: ExperimentFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print runs, steps, tokens and time; train none.")] = False,
) -> None:
    """Train and score every setting of `ablate` with its control; one table; finished parts are kept.

    Example: `ialign ablate jobs/experiments/miniature.yaml --dry-run`

    Example: `ialign ablate experiment.yaml --set "ablate.axes={replay.ratio: [0, 0.5], model.lora.rank: [4, 16]}"`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.training.pocket import ensure_model
    from ialign_ray.workflows import ablate as ablation

    experiment = load_experiment(file, overrides or [])
    ensure_model(experiment, console)
    if dry_run:
        ablation.dry_run(experiment, console)
    else:
        console.print(f"\nTable: {ablation.ablate(experiment, console)}", soft_wrap=True, highlight=False)


@app.command()
def tune(
    file: ExperimentFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a search that was stopped or killed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell trials, tokens and time.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Register the winner, and make it the champion if the gate lets it.")
    ] = False,
) -> None:
    """Search the space of `search` for the largest gain that forgets nothing beyond the tolerance; score the winner.

    Example: `ialign tune jobs/experiments/pocket.yaml --dry-run`

    Example: `ialign tune jobs/experiments/pocket.yaml --promote`

    Example: `ialign tune jobs/experiments/pocket.yaml --resume`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.training.pocket import ensure_model

    experiment = load_experiment(file, overrides or [])
    ensure_model(experiment, console)
    if dry_run:
        from ialign_ray.search.estimate import tell

        tell(experiment, console)
        return
    from ialign_ray.search.tune import tune as run_search

    run = run_search(experiment, console, resume=resume)
    if promote:
        from ialign_ray.registry.promotion import promote_run

        promote_run(experiment, run, say)
    else:
        say(f"Next:   ialign register {run}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of comparisons or evaluated runs.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Target folder; the first one given.")] = None,
) -> None:
    """Make report.html, RESULTS.md and the tables again from stored predictions: no model, cluster or network.

    Example: `ialign report runs/mine`
    """
    from ialign_ray.evaluation.report.write import report_again

    report_again(runs, to, console)


@app.command()
def predict(
    text: Annotated[str, typer.Argument(help="The request.", show_default=False)],
    adapter: Adapter = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Of the registry (`champion`, `mine@champion`, `mine/3`), or a base model: folder or hub id."
        ),
    ] = None,
    registry: RegistryOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
) -> None:
    """Print a model's answer.

    Example: `ialign predict "Translate to Indonesian: Good morning." --model champion`
    """
    from ialign_ray.workflows.export import answer

    if adapter is None and model is not None:
        adapter, model = from_registry(model, registry)
    console.print(answer(text, adapter, model, max_new_tokens, temperature), markup=False, highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Finished run or adapter folder.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Target folder; RUN/merged or RUN/exported.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Fold the adapter into the base model's weights.")] = False,
    checkpoint: Annotated[str | None, typer.Option(help="Of this checkpoint, as step-00000100.")] = None,
) -> None:
    """Write a model folder that transformers (merged) or peft (adapter) loads with no code of ours.

    Example: `ialign export runs/mine/align --merge --to my-model`
    """
    from ialign_ray.workflows.export import export_model

    console.print(f"Exported to {export_model(run, to, merge, checkpoint)}", soft_wrap=True)


for command in (register, promote, rollback, models, submit, jobs, stop):
    app.command()(command)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file, for editors.

    Example: `ialign schema > experiment.schema.json`
    """
    from ialign_ray.config import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


def finished(folder: Path) -> Path:
    """The run folder of a run or of its model folder; refuses an unfinished one."""
    from ialign_ray.storage import is_intact
    from ialign_ray.training.runs import MODEL

    folder = folder.absolute()
    run = folder.parent if folder.name == MODEL else folder
    if not is_intact(run / MODEL):
        raise ModelError(f"{run} has no finished model; run `ialign align ... --resume` first, or name another run")
    return run


def from_registry(model: str, location: str | None) -> tuple[Path | None, str | None]:
    """(adapter folder, None) where `--model` names a version of the registry, else (None, model)."""
    from ialign_ray.registry.reference import registry_of, resolve

    registry = registry_of(model, location or DEFAULT_REGISTRY)
    if registry is None:
        return None, model
    chosen = resolve(model, registry)
    sys.stderr.write(f"ialign: {chosen}\n")
    return chosen.folder, None


def main() -> NoReturn:
    """Entry point: a user's error becomes one sentence and exit code 2 (143 after SIGTERM)."""
    prepare_process()
    try:
        app()
    except IalignError as error:
        sys.stderr.write(f"ialign: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(2)
