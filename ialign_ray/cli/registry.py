"""`ialign register`, `promote`, `rollback`, `models`: from a finished run to the champion, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ialign_ray.cli.options import RegistryOption, console, load, say
from ialign_ray.errors import RegistryError
from ialign_ray.terminal import BlockTable

if TYPE_CHECKING:
    from ialign_ray.registry.decisions import Event
    from ialign_ray.registry.promotion import Moved
    from ialign_ray.registry.store import Registry, Version

Name = Annotated[str, typer.Argument(help="Name of the registered model.", show_default=False)]
Context = Annotated[
    str | None,
    typer.Option(help="Context of evaluate.contexts; the run may be a folder of `ialign icl`. Default: no context."),
]
Alias = Annotated[str, typer.Option(help="Alias to move.")]


def register(
    run: Annotated[Path, typer.Argument(help="Finished and evaluated run folder.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the registered model. Default: the experiment's.")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="Experiment that the run was evaluated with. Default: its own.")
    ] = None,
    control: Annotated[Path | None, typer.Option(help="Finished replay-only run. Default: the experiment's.")] = None,
    context: Context = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Override a field of --experiment. May be repeated.")
    ] = None,
    registry: RegistryOption = None,
) -> None:
    """Add a finished run to the registry: model, settings, predictions and scores, each hashed.

    Example: `ialign register runs/pocket/align`

    Example: `ialign register runs/pocket/icl --context icl`
    """
    from ialign_ray.registry.promotion import registered
    from ialign_ray.registry.store import registry_uri
    from ialign_ray.workflows.promote import DEFAULT_REGISTRY, register

    if overrides and experiment is None:
        raise RegistryError("--set overrides fields of --experiment; pass --experiment too")
    evaluated = load(experiment, overrides) if experiment else None
    added = register(run, name, experiment=evaluated, control=control, context=context, registry=registry)
    named = registry or registry_uri(added.registry) != registry_uri(DEFAULT_REGISTRY)
    there = f" --registry {added.registry}" if named else ""
    version = added.version
    say(registered(version, added.new), f"Next:  ialign promote {version.name} {version.number}{there}")


def promote(
    name: Name,
    candidate: Annotated[str, typer.Argument(help="Version number, or a run folder.", show_default=False)],
    alias: Alias = "champion",
    force: Annotated[str | None, typer.Option(help="Skip the gate; the reason given is recorded.")] = None,
    context: Context = None,
    registry: RegistryOption = None,
) -> None:
    """Make a version the champion if it is shown to be better on new languages and no worse on old ones.

    Example: `ialign promote pocket 2`
    """
    from ialign_ray.workflows.promote import promote

    _say_moved(promote(name, candidate, alias=alias, force=force, context=context, registry=registry), alias)


def rollback(
    name: Name,
    to: Annotated[int | None, typer.Option(help="Version of an earlier champion. Default: the previous one.")] = None,
    alias: Alias = "champion",
    registry: RegistryOption = None,
) -> None:
    """Move the alias back to the previous champion.

    Example: `ialign rollback pocket`
    """
    from ialign_ray.registry.promotion import roll_back

    _say_moved(roll_back(_open(registry), name, to, alias), alias)


def models(
    name: Annotated[str | None, typer.Argument(help="Registered model. Default: all.", show_default=False)] = None,
    history: Annotated[bool, typer.Option("--history", help="Show every promotion, refusal and rollback.")] = False,
    alias: Annotated[str, typer.Option(help="Alias whose history --history shows.")] = "champion",
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove files of registrations that failed more than an hour ago.")
    ] = False,
    registry: RegistryOption = None,
) -> None:
    """List versions with alias, scores, base, replay ratio and date, or show the history of an alias.

    Example: `ialign models pocket --history`
    """
    store = _open(registry)
    for each in [name] if name else store.names():
        if clean:
            number, size = store.clean(each)
            say(f"{each}: {number} unfinished registrations removed, {size / 2**20:.1f} MiB")
        elif history:
            _show_history(store, each, alias)
        else:
            _show_versions(store, each)


def _open(registry: str | None) -> Registry:
    from ialign_ray.registry.store import Registry
    from ialign_ray.workflows.promote import DEFAULT_REGISTRY

    return Registry(registry or DEFAULT_REGISTRY)


def _say_moved(moved: Moved, alias: str) -> None:
    """Print the new state of an alias, and the checks that decided it."""
    from ialign_ray.registry.promotion import moved_lines

    say(*moved_lines(moved, alias))


def _show_versions(store: Registry, name: str) -> None:
    versions, aliases = store.versions(name), store.aliases(name)
    rows = []
    for v in versions:
        held = ", ".join(alias for alias, number in aliases.items() if number == v.number)
        scores = "\n".join(_scores(v))
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(v.created))
        rows.append((str(v.number), held, scores, v.tags.get("base", ""), v.tags.get("dose", ""), date))
    console.print(BlockTable(("version", "alias", "scores [95 %]", "base", "replay ratio", "registered"), rows, name))


def _scores(version: Version) -> Iterator[str]:
    for row in json.loads(version.tags.get("metrics", "[]")):
        value, low, high = (f"{row[k]:.3f}" if row[k] is not None else "–" for k in ("value", "low", "high"))
        group = row["scope"].removeprefix("group:").replace("all", "")
        yield f"{row['suite']} {group} {row['metric']} {value} [{low}, {high}] n={row['n']}".replace("  ", " ")


def _show_history(store: Registry, name: str, alias: str) -> None:
    from ialign_ray.registry.decisions import head
    from ialign_ray.registry.promotion import alpha_left

    seen = head(store, name, alias)
    say(f"{name}@{alias}: {'no version' if seen.champion is None else f'version {seen.champion}'}")
    for event in seen.events:
        say(_line(event))
        for told in event.told:
            say(f"    {told}")
    if line := alpha_left(store, name, seen):
        say(line)
    if seen.champion != (seen.held[-1] if seen.held else None):
        say("The alias was last moved by a tool other than ialign.")


def _line(event: Event) -> str:
    about = [f"champion: {event.before}"] if event.before is not None else []
    about += [f"attempt {event.attempt}"] if event.attempt else []
    among = f" ({', '.join(about)})" if about else ""
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.number}. {event.when} {event.who}: version {event.version} {event.kind}{among}{reason}"
