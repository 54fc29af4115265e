"""Validation in another process, as the Ray task does it; not forked, since torch's threads do not survive that."""

import multiprocessing

from ialign_ray.errors import ClusterError
from ialign_ray.training.async_validation import validate_checkpoint

processes = multiprocessing.get_context("spawn")


class Beside:
    """A result is told of at the step boundary after `late` others."""

    _pipe, _number = None, 0
    """To the one process that serves all, as it takes seconds to import what it needs; and the last order's number."""

    def __init__(self, experiment, run, late=0, work=validate_checkpoint):
        self._experiment, self._run, self._late, self._work = experiment, run, late, work
        self._asked, self._checkpoint, self._found = 0, None, None
        self.steps = []

    def start(self, step, checkpoint):
        assert checkpoint.exists()
        if Beside._pipe is None:
            Beside._pipe, other = processes.Pipe()
            processes.Process(target=serve, args=(other,), daemon=True).start()
            other.close()  # so that the end of the process is the end of the pipe
        Beside._number += 1
        self._asked, self._checkpoint, self._found = 0, checkpoint, None
        Beside._pipe.send((Beside._number, self._work, (self._experiment, self._run, checkpoint)))
        self.steps.append(step)

    def ready(self):
        self._asked += 1
        if self._asked <= self._late:
            return False
        self._wait()  # so that nothing depends on the machine
        return True

    def result(self):
        self._wait()
        if isinstance(self._found, Exception):
            raise ClusterError(f"the validation beside failed ({type(self._found).__name__})")
        assert self._checkpoint.exists()
        return self._found

    def _wait(self):
        number = 0  # what runs that are lost had ordered comes first
        while self._found is None and number != Beside._number:
            try:
                number, found = Beside._pipe.recv()
            except EOFError as error:
                Beside._pipe = None
                number, found = Beside._number, error
            if number == Beside._number:
                self._found = found


def serve(pipe):
    while True:
        try:
            number, work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((number, work(*arguments)))
        except Exception as error:
            pipe.send((number, error))
