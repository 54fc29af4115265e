"""All steps of an experiment in one job. Each has a record of its own, and one that is finished is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
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
    course = _Course(console)
    course.take("build_data", steps.build_data, experiment, Options())
    made = searched(course, experiment) if experiment.search else trained(course, experiment, options.run)
    if experiment.evaluate.suites:
        course.take("promote", steps.promote, experiment, replace(made, alias=options.alias, force=options.force))
    else:
        say(console, "pipeline: evaluate.suites is empty, so nothing is judged or promoted")
    return {"steps": course.results}


def searched(course: _Course, experiment: Experiment) -> Options:
    """Search; the winner, which `tune` has judged, and its control."""
    found = course.take("tune", steps.tune, experiment, Options())
    return Options(run=found["run"], control=found["control"])


def trained(course: _Course, experiment: Experiment, run: str) -> Options:
    """Train the control, where there are old instructions, and the run; judge them where there are suites."""
    control = steps.control_name(experiment)
    made = Options(run=run)
    if experiment.replay.sources and control != run:
        made = replace(made, control=control)
        course.take("align", steps.align, steps.control_of(experiment), Options(run=control))
    course.take("align", steps.align, experiment, Options(run=run))
    if experiment.evaluate.suites:
        course.take("evaluate", steps.evaluate, experiment, made)
    return made


class _Course:
    """The steps so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.results: dict[str, Result] = {}

    def take(
        self,
        step: str,
        work: Callable[[Experiment, Options, Console], Result],
        experiment: Experiment,
        options: Options,
    ) -> Result:
        """Do a step, or find that it was done with the same settings; its record is called as the job's of its own."""
        title, given = steps.titled(step, options.run), asdict(options)
        result = finished_before(experiment, title, given)
        if result is None:
            say(self._console, f"pipeline: {title}")
            result = recorded(experiment, title, given, lambda: work(experiment, options, self._console))
        else:
            say(self._console, f"pipeline: {title} is done already")
        self.results[title] = result
        return result
