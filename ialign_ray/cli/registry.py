"""`ialign register`, `promote`, `rollback`, `models`: from a finished run to the champion, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ialign_ray.errors import RegistryError

if TYPE_CHECKING:
    from ialign_ray.registry.decisions import Event
    from ialign_ray.registry.promotion import Moved
    from ialign_ray.registry.store import Registry, Version

RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow server or database, or a folder of runs with its mlflow.db; `runs` when left out.",
    ),
]
Name = Annotated[str, typer.Argument(help="Registered model.", show_default=False)]
Alias = Annotated[str, typer.Option(help="Alias to move.")]
DEFAULT_REGISTRY = "runs"

console = Console()


def register(
    run: Annotated[Path, typer.Argument(help="Finished and evaluated run folder.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Registered model; the experiment's name when left out.")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="Experiment that the run was evaluated with, where it is not its own.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="Replay-only run; the experiment's own when left out.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Override a field of --experiment.")
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Add a finished run to the registry: model, settings, predictions and scores, hashed.

    Example: `ialign register runs/mine/align`
    """
    from ialign_ray.config import load_experiment
    from ialign_ray.registry.promotion import registered
    from ialign_ray.registry.store import registry_uri

    if overrides and experiment is None:
        raise RegistryError("--set changes the file of --experiment; give that too")
    evaluated = load_experiment(experiment, overrides or []) if experiment else None
    where, _, version, new = _register(run, name, evaluated, control, registry)
    named = registry or registry_uri(where) != registry_uri(DEFAULT_REGISTRY)
    there = f" --registry {where}" if named else ""
    say(f"{registered(version, new)}\nNext:  ialign promote {version.name} {version.number}{there}")


def promote(
    name: Name,
    candidate: Annotated[str, typer.Argument(help="Version number, or a run folder.", show_default=False)],
    alias: Alias = "champion",
    force: Annotated[str | None, typer.Option(help="Promote without proof, for this reason, which is kept.")] = None,
    registry: RegistryOption = None,
) -> None:
    """Make a version the champion, if it is shown better on new languages and no worse on old ones.

    Example: `ialign promote mine 2`
    """
    from ialign_ray.registry.promotion import promote as move

    if force is not None and not force.strip():
        raise RegistryError("--force is empty; give the reason, which the history keeps")
    if candidate.isdecimal():
        number, store = int(candidate), _open(registry)
    else:
        _, store, version, _ = _register(Path(candidate), name, None, None, registry)
        number = version.number
    _tell_moved(move(store, name, number, alias, force), alias)


def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(help="An earlier champion; the last one when left out.")] = None,
    alias: Alias = "champion",
    registry: RegistryOption = None,
) -> None:
    """Give the alias back to the champion before.

    Example: `ialign rollback mine`
    """
    from ialign_ray.registry.promotion import roll_back

    _tell_moved(roll_back(_open(registry), name, to, alias), alias)


def models(
    name: Annotated[str | None, typer.Argument(help="Registered model; all when left out.", show_default=False)] = None,
    history: Annotated[bool, typer.Option("--history", help="Every promotion, refusal and rollback.")] = False,
    alias: Annotated[str, typer.Option(help="Alias of --history.")] = "champion",
    registry: RegistryOption = None,
) -> None:
    """List versions with alias, scores, base, dose and date; or what happened to an alias.

    Example: `ialign models mine --history`
    """
    store = _open(registry)
    for each in [name] if name else store.names():
        if history:
            _show_history(store, each, alias)
        else:
            _show_versions(store, each)


def _register(
    run: Path, name: str | None, evaluated: Any, control: Path | None, registry: str | None
) -> tuple[str, Registry, Version, bool]:
    """Where a run was registered, as what, and whether it is new: in its own registry unless another is named."""
    from ialign_ray.registry.promotion import register as add
    from ialign_ray.registry.store import Registry
    from ialign_ray.training.runs import model_folder, run_experiment

    run = run.absolute()
    if not run.is_dir():
        raise RegistryError(f"{run} does not exist; name a version number or a run folder")
    folder = model_folder(run)
    experiment = evaluated or run_experiment(folder)
    where = registry or experiment.tracking.mlflow_uri or str(_runs_above(folder.parent))
    store = Registry(where, artifacts=experiment.tracking.artifacts, create=True)
    control = control.absolute() if control else None
    return where, store, *add(store, folder.parent, name or experiment.name, evaluated, control)


def _runs_above(run: Path) -> Path:
    """The folder of all runs: `runs` of `runs/mine/align` and of `runs/mine/search/trials/trial-…`."""
    from ialign_ray.registry.store import has_registry

    return next((each for each in run.parents[1:4] if has_registry(str(each))), run.parent.parent)


def _open(registry: str | None) -> Registry:
    from ialign_ray.registry.store import Registry

    return Registry(registry or DEFAULT_REGISTRY)


def _tell_moved(moved: Moved, alias: str) -> None:
    """Print what became of an alias, and the checks that decided it."""
    from ialign_ray.registry.promotion import told

    for line in told(moved, alias):
        say(line)


def _show_versions(store: Registry, name: str) -> None:
    versions, aliases = store.versions(name), store.aliases(name)
    table = Table(title=name, title_justify="left")
    for column in ("version", "alias", "scores [95 %]", "base", "dose", "registered"):
        table.add_column(column, overflow="fold")
    for v in versions:
        held = ", ".join(alias for alias, number in aliases.items() if number == v.number)
        scores = escape("\n".join(_scores(v)))
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(v.created))
        table.add_row(str(v.number), held, scores, escape(v.tags.get("base", "")), v.tags.get("dose", ""), date)
    console.print(table)


def _scores(version: Version) -> Iterator[str]:
    for row in json.loads(version.tags.get("metrics", "[]")):
        value, low, high = (f"{row[k]:.3f}" if row[k] is not None else "–" for k in ("value", "low", "high"))
        group = row["scope"].removeprefix("group:").replace("all", "")
        yield f"{row['suite']} {group} {row['metric']} {value} [{low}, {high}] n={row['n']}".replace("  ", " ")


def _show_history(store: Registry, name: str, alias: str) -> None:
    from ialign_ray.registry.decisions import head

    seen = head(store, name, alias)
    say(f"{name}@{alias}: {'no version' if seen.champion is None else f'version {seen.champion}'}")
    for event in seen.events:
        say(_line(event))
        for told in event.told:
            say(f"    {told}")
    if seen.champion != (seen.held[-1] if seen.held else None):
        say("The alias was last moved by another tool than ialign.")


def _line(event: Event) -> str:
    before = "" if event.before is None else f" (champion: {event.before})"
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.number}. {event.when} {event.who}: version {event.version} {event.kind}{before}{reason}"


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)
