"""All steps of an experiment in one job. Each step has a record, and finished steps are skipped."""

from __future__ import annotations

from dataclasses import asdict, replace

from rich.console import Console

from ialign_ray.config import Experiment, override
from ialign_ray.jobs.catalog import STEPS, Options, Result, control_name, titled
from ialign_ray.jobs.record import finished_before, recorded
from ialign_ray.terminal import say


def pipeline(experiment: Experiment, options: Options, console: Console) -> Result:
    """Build the corpus; search, or train the control and the run; evaluate; promote the run if it passes the gate.

    Without evaluation suites it ends with the trained run. The first error, a refused promotion included, ends it;
    finished steps are kept.
    """
    steps = _Steps(console)
    steps.do("build_data", experiment, Options())
    made = searched(steps, experiment) if experiment.search else trained(steps, experiment, options.run)
    if experiment.evaluate.suites:
        steps.do("promote", experiment, replace(made, alias=options.alias, force=options.force))
    else:
        say(console, "pipeline: evaluate.suites is empty, so nothing is evaluated or promoted")
    return {"steps": steps.results}


def searched(steps: _Steps, experiment: Experiment) -> Options:
    """Run the search; return options for the winner, which `tune` has evaluated, and its control."""
    found = steps.do("tune", experiment, Options())
    return Options(run=found["run"], control=found["control"])


def trained(steps: _Steps, experiment: Experiment, run: str) -> Options:
    """Train the control (if there are replay sources) and the run; evaluate them if there are suites."""
    control = control_name(experiment)
    made = Options(run=run)
    if experiment.replay.sources and control != run:
        made = replace(made, control=control)
        replayed = override(experiment, experiment.compare.arms.get("control", {"replay.ratio": 1.0}))
        steps.do("align", replayed, Options(run=control))
    steps.do("align", experiment, Options(run=run))
    if experiment.evaluate.suites:
        steps.do("evaluate", experiment, made)
    return made


class _Steps:
    """Runs steps and collects their results."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.results: dict[str, Result] = {}

    def do(self, step: str, experiment: Experiment, options: Options) -> Result:
        """Do a step, unless it was done with the same settings; its record is named as if it were a job."""
        title, given = titled(step, options.run), asdict(options)
        result = finished_before(experiment, title, given)
        if result is None:
            say(self._console, f"pipeline: {title}")
            work = STEPS[step].work
            result = recorded(experiment, title, given, lambda: work(experiment, options, self._console))
        else:
            say(self._console, f"pipeline: {title} is already done")
        self.results[title] = result
        return result
