"""All steps of an experiment in one job. Each has a record of its own, and one that is finished is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.jobs import steps
from ialign_ray.jobs.record import finished_before, recorded
from ialign_ray.jobs.steps import Options, say

Result = dict[str, Any]


def pipeline(experiment: Experiment, options: Options, console: Console) -> Result:
    """Build the corpus; search, or train the control and the run; judge; promote what is shown better.

    Without evaluation suites it ends with the trained run. Raises what the first step raises that fails, a refused
    promotion included; the steps before it stay.
    """
    course = _Course(experiment, options, console)
    course.take("build_data", experiment, steps.build_data)
    run, control = searched(course) if experiment.search else trained(course)
    if experiment.evaluate.suites:
        work = _promoting(run, control)
        course.take("promote", experiment, work, run=str(run), alias=options.alias, force=options.force)
    else:
        say(console, "pipeline: evaluate.suites is empty, so nothing is judged or promoted")
    return {"steps": course.results}


def searched(course: _Course) -> tuple[Path, Path | None]:
    """The search's winner, which `tune` has judged, and its control."""
    found = course.take("tune", course.experiment, steps.tune)
    return Path(found["run"]), Path(found["control"])


def trained(course: _Course) -> tuple[Path, Path | None]:
    """The run and its control, judged where there are suites."""
    experiment, control = course.experiment, None
    name = steps.control_name(experiment)
    if experiment.replay.sources and name != course.options.run:
        control = Path(course.take(f"align-{name}", steps.control_of(experiment), steps.align, run=name)["run"])
    run = Path(course.take("align", experiment, steps.align, run=course.options.run)["run"])
    if experiment.evaluate.suites:
        beside = control.name if control else None
        course.take("evaluate", experiment, steps.evaluate, run=course.options.run, control=beside)
    return run, control


class _Course:
    """The steps so far."""

    def __init__(self, experiment: Experiment, options: Options, console: Console) -> None:
        self.experiment, self.options, self._console = experiment, options, console
        self.results: dict[str, Result] = {}

    def take(
        self, title: str, experiment: Experiment, work: Callable[[Experiment, Options, Console], Result], **given: Any
    ) -> Result:
        """Do a step, or find that it was done with the same settings."""
        result = finished_before(experiment, title, given)
        if result is None:
            say(self._console, f"pipeline: {title}")
            known = {k: v for k, v in given.items() if k != "run" or "/" not in str(v)}
            options = Options(**asdict(self.options) | known)
            result = recorded(experiment, title, given, lambda: work(experiment, options, self._console))
        else:
            say(self._console, f"pipeline: {title} is done already")
        self.results[title] = result
        return result


def _promoting(run: Path, control: Path | None) -> Callable[[Experiment, Options, Console], Result]:
    def work(experiment: Experiment, options: Options, console: Console) -> Result:
        return steps.register_and_promote(experiment, run, control, options, console)

    return work
