"""`ialign`: one experiment file, every step from checking it to an exported model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from ialign_ray.cli.data import data
from ialign_ray.cli.jobs import jobs, stop, submit
from ialign_ray.cli.options import ExperimentFile, Overrides, RegistryOption, console, load, say
from ialign_ray.cli.registry import models, promote, register, rollback
from ialign_ray.cli.serve import serve
from ialign_ray.cli.survey import survey
from ialign_ray.errors import ConfigError, IalignError
from ialign_ray.terminal import prepare_process


class Commands(typer.core.TyperGroup):
    """Passes an interruption on to `main`; typer itself would exit silently."""

    def invoke(self, ctx: Any) -> Any:
        """Run the requested command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise IalignError(
                "interrupted; finished checkpoints and predictions are kept, so continue with --resume"
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
app.command()(survey)
app.add_typer(data)
app.add_typer(serve)

RunName = Annotated[str, typer.Option("--run", help="Name of this run under `storage.runs`/`name`.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", "-a", help="Run folder or model folder.")]


@app.command()
def validate(file: ExperimentFile, overrides: Overrides = None) -> None:
    """Check everything without a cluster: fields, files, languages, model; print counts and examples.

    Example: `ialign validate jobs/experiments/pocket.yaml --set replay.ratio=0.25`
    """
    from ialign_ray.workflows.validate import validate

    validate(load(file, overrides), console)


@app.command()
def doctor() -> None:
    """Print versions, memory, disk, and every port that Ray has open here; exit with 1 if something is exposed.

    Example: `ialign doctor`
    """
    from ialign_ray.workflows.doctor import doctor

    if doctor(console):
        raise typer.Exit(1)


@app.command()
def align(
    file: ExperimentFile,
    overrides: Overrides = None,
    run: RunName = "align",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from the newest intact checkpoint instead of refusing an existing run."
        ),
    ] = False,
) -> None:
    """Train one run with Ray Train on data streamed by Ray Data, and write its adapter folder.

    Example: `ialign align jobs/experiments/pocket.yaml --set train.steps=500 --run first`
    """
    from ialign_ray.training.runs import MODEL
    from ialign_ray.workflows.align import align

    folder = align(load(file, overrides), run, resume=resume, console=console)
    say(f"Model: {folder / MODEL}", f"Next:  ialign evaluate {file} --adapter {folder}")


@app.command()
def evaluate(
    file: ExperimentFile,
    adapter: Annotated[list[Path], typer.Option("--adapter", "-a", help="Finished run to score. May be repeated.")],
    control: Annotated[
        Path | None, typer.Option(help="Finished replay-only run (replay.ratio 1) to compare with. Default: none.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            "--suite",
            help="Score only this suite, or `lm_eval:TASK` of lm-evaluation-harness. May be repeated. Default: all.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Score finished runs alongside base, baselines and control, with intervals and a verdict in words.

    Example: `ialign evaluate jobs/experiments/pocket.yaml --adapter runs/pocket/align`

    Example: `ialign evaluate jobs/experiments/pocket.yaml --adapter runs/pocket/align --suite lm_eval:xcopa_id`
    """
    from ialign_ray.workflows.evaluate import evaluate

    evaluate(load(file, overrides), adapter, control, suites=suite or [], console=console)


@app.command()
def icl(
    file: ExperimentFile,
    runs: Annotated[list[Path] | None, typer.Argument(help="Finished runs.", show_default=False)] = None,
    control: Annotated[Path | None, typer.Option(help="Finished replay-only run (replay.ratio 1).")] = None,
    overrides: Overrides = None,
) -> None:
    """Score models with exemplars, translation pairs or words in the prompt, and without: prompt or tune?

    `evaluate.contexts` of the experiment names them; without it exemplars of the question's language and of the first
    L1 language, translation pairs, and the control of each.

    Example: `ialign icl jobs/experiments/pocket.yaml`

    Example: `ialign icl my.yaml runs/my/align --control runs/my/control`
    """
    from ialign_ray.workflows.icl import icl

    icl(load(file, overrides), runs or [], control, console=console)


@app.command()
def compare(file: ExperimentFile, overrides: Overrides = None) -> None:
    """Train and score base, control and every arm of `compare`; finished parts are reused.

    Example: `ialign compare jobs/experiments/pocket.yaml --set compare.seeds=[0,1]`
    """
    from ialign_ray.workflows.compare import compare

    experiment = load(file, overrides)
    compare(experiment, console)
    folder = Path(experiment.storage.runs) / experiment.name
    say(
        f"\nTable and verdict: {folder / 'RESULTS.md'}",
        f"Scores:            {folder / 'results.csv'}",
        f"Curves:            tensorboard --logdir {folder}   or   mlflow ui --backend-store-uri "
        f"{experiment.tracking_uri}",
    )


@app.command()
def ablate(
    file: ExperimentFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the planned runs, steps, tokens and estimated time, then exit.")
    ] = False,
) -> None:
    """Train and score every setting of `ablate` with its control, in one table; finished parts are reused.

    Example: `ialign ablate jobs/experiments/miniature.yaml --dry-run`

    Example: `ialign ablate jobs/experiments/pocket.yaml --set "ablate.axes={replay.ratio: [0, 0.5]}" --dry-run`
    """
    from ialign_ray.workflows.ablate import ablate, print_estimate

    experiment = load(file, overrides)
    if dry_run:
        print_estimate(experiment, console)
    else:
        say(f"\nTable: {ablate(experiment, console)}")


@app.command()
def tune(
    file: ExperimentFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a search that was stopped or killed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the planned trials, tokens and estimated time, then exit.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Register the winner, and promote it to champion if it passes the gate.")
    ] = False,
) -> None:
    """Search the space of `search` for the largest gain with forgetting within the tolerance; score the winner.

    Example: `ialign tune jobs/experiments/pocket.yaml --dry-run`

    Example: `ialign tune jobs/experiments/pocket.yaml --promote`

    Example: `ialign tune jobs/experiments/pocket.yaml --resume`
    """
    experiment = load(file, overrides)
    if dry_run:
        from ialign_ray.workflows.tune import print_estimate

        print_estimate(experiment, console)
        return
    from ialign_ray.registry.promotion import promote_run
    from ialign_ray.workflows.tune import tune, winner_control

    run = tune(experiment, resume=resume, console=console)
    if promote:
        promote_run(experiment, run, say, control=winner_control(experiment, run))
    else:
        say(f"Next:   ialign register {run}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of comparisons or of evaluated runs.", show_default=False)
    ],
    to: Annotated[Path | None, typer.Option(help="Output folder. Default: the first run's.")] = None,
    published: Annotated[
        list[Path] | None,
        typer.Option(help="Published scores, files of Every Eval Ever: a table next to ours. May be repeated."),
    ] = None,
    every_eval_ever: Annotated[
        Path | None, typer.Option(help="Folder for our scores in the format of Every Eval Ever, a file for each model.")
    ] = None,
    organization: Annotated[str, typer.Option(help="Who made the evaluation, for --every-eval-ever.")] = "unknown",
) -> None:
    """Rebuild report.html, RESULTS.md and the tables from stored predictions; needs no model, cluster or network.

    Example: `ialign report runs/pocket --every-eval-ever shared --organization "Our lab"`
    """
    from ialign_ray.evaluation.report.write import report_again

    report_again(runs, to, console, published or [], (every_eval_ever, organization) if every_eval_ever else None)


@app.command()
def predict(
    text: Annotated[str, typer.Argument(help="Prompt to send to the model.", show_default=False)],
    adapter: Adapter = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead of --adapter: a registered model (`champion`, `mine@champion`, `mine/3`), folder or hub id."
        ),
    ] = None,
    registry: RegistryOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy decoding.")] = 0.0,
) -> None:
    """Print a model's answer.

    Example: `ialign predict "Translate to Indonesian: Good morning." --model champion`
    """
    from ialign_ray.workflows.predict import answer, from_registry

    if adapter is None and model is not None:
        adapter, model = from_registry(model, registry)
    console.print(answer(text, adapter, model, max_new_tokens, temperature), markup=False, highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Finished run or adapter folder.", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="Output folder. Default: RUN/merged or RUN/exported.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into the base model's weights.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Export this checkpoint, e.g. step-00000100. Default: the finished model.")
    ] = None,
) -> None:
    """Write a model folder that transformers (merged) or peft (adapter) loads without ialign.

    Example: `ialign export runs/pocket/align --merge --to my-model`
    """
    from ialign_ray.workflows.export import export_model

    say(f"Exported to {export_model(run, to, merge, checkpoint)}")


for command in (register, promote, rollback, models, submit, jobs, stop):
    app.command()(command)


@app.command()
def suites(
    file: Annotated[
        Path | None, typer.Argument(help="Experiment file whose suites are exported.", show_default=False)
    ] = None,
    export_harness: Annotated[
        Path | None,
        typer.Option(help="Write the experiment's suites as task files of lm-evaluation-harness into this folder."),
    ] = None,
    fetch: Annotated[
        Path | None,
        typer.Option(help="Write the tables of bundled suites from the hub into this folder, as `storage.data`."),
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Suite to export or fetch. May be repeated.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option("--languages", "-l", help="Codes to fetch, e.g. `jav,sun`. Default: all.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List the bundled suites with kind, languages, rows and licence; fetch their data, or export an experiment's.

    Example: `ialign suites`

    Example: `ialign suites --fetch data --suite belebele --suite xcopa --languages ind,jav`

    Example: `ialign suites jobs/experiments/pocket.yaml --export-harness tasks`
    """
    from ialign_ray.workflows.suites import bundled_table, export_suites, fetch_suites

    if export_harness is not None and file is not None:
        export_suites(load(file, overrides), export_harness, suite or [], console)
    elif export_harness is not None or file is not None:
        raise ConfigError("an export needs an experiment file and --export-harness FOLDER; give both, or neither")
    elif fetch is not None and suite:
        fetch_suites(suite, fetch, (languages or "").replace(",", " ").split(), console)
    elif fetch is not None or suite:
        raise ConfigError("to fetch data give --fetch FOLDER and the names, each as --suite NAME")
    else:
        console.print(bundled_table())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file, for editors.

    Example: `ialign schema > experiment.schema.json`
    """
    from ialign_ray.config import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


def main() -> NoReturn:
    """Entry point: a user's error becomes one sentence and exit code 2 (143 after SIGTERM)."""
    prepare_process()
    try:
        app()
    except IalignError as error:
        sys.stderr.write(f"ialign: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(2)
