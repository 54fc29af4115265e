"""Validation in another process, as the Ray task does it."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ialign_ray.errors import ClusterError
from ialign_ray.training.remote import validate_checkpoint


class Beside:
    """A result is told of at the step boundary after `late` others."""

    def __init__(self, experiment, run, late=0, work=validate_checkpoint):
        self._experiment, self._run, self._late, self._work = experiment, run, late, work
        self._executor = ProcessPoolExecutor(1, get_context("fork"))
        self._asked = 0
        self.steps = []

    def start(self, step, checkpoint):
        assert checkpoint.exists()
        self._asked, self._checkpoint = 0, checkpoint
        self._future = self._executor.submit(self._work, self._experiment, self._run, checkpoint)
        self.steps.append(step)

    def ready(self):
        self._asked += 1
        if self._asked <= self._late:
            return False
        self._future.exception()  # waits, so that nothing depends on the machine
        return True

    def result(self):
        try:
            found = self._future.result()
        except Exception as error:
            raise ClusterError(f"the validation beside failed ({type(error).__name__})") from error
        assert self._checkpoint.exists()
        return found
