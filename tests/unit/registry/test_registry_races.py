"""Two writers at one alias: real processes, a writer that dies half-way, and one that comes late."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import BEST, GOOD, WEAK

from ialign_ray.errors import RegistryError
from ialign_ray.registry import decisions
from ialign_ray.registry.decisions import FORCED, REFUSED, Event, append, head
from ialign_ray.registry.promotion import promote
from ialign_ray.registry.store import Registry

pytestmark = pytest.mark.slow

RACER = Path(__file__).parents[2] / "racer.py"
ROUNDS = 6


def racer(*arguments):
    return subprocess.Popen([sys.executable, str(RACER), *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def ended(processes):
    said = []
    for process in processes:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        said += [json.loads(line) for line in out.splitlines()]
    return said


def test_of_two_promotions_at_once_one_wins_and_the_other_is_judged_against_it(registry, tmp_path):
    for k in range(ROUNDS):
        promote(registry, "mine", WEAK, f"race-{k}", force="start")
    processes = [racer("promote", tmp_path / "runs", number, ROUNDS, tmp_path) for number in (GOOD, BEST)]
    for k in range(ROUNDS):
        while not all((tmp_path / f"{k}.{number}").exists() for number in (GOOD, BEST)):
            assert all(process.poll() in (None, 0) for process in processes)
            time.sleep(0.001)
        (tmp_path / f"{k}.go").touch()
    outcomes = ended(processes)
    aliases = registry.aliases("mine")
    for k in range(ROUNDS):
        of_round = {said["number"]: said for said in outcomes if said["round"] == k}
        # both are better than the champion that both saw at first, but only one of them replaced it
        replaced = [number for number, said in of_round.items() if said.get("before") == WEAK]
        assert len(replaced) == 1, of_round
        if replaced == [GOOD]:
            assert (of_round[BEST].get("before"), aliases[f"race-{k}"]) == (GOOD, BEST), of_round
            assert "against mine/2" in of_round[BEST]["told"][0]
        else:
            assert aliases[f"race-{k}"] == BEST
            assert "mine/2 is not promoted over mine/3: new languages (mood): worse" in of_round[GOOD]["refused"]
        kept = head(registry, "mine", f"race-{k}").events
        assert [event.number for event in kept] == [1, 2, 3]


def test_a_history_under_many_writers_loses_and_doubles_nothing(registry, tmp_path):
    count = 8
    said = ended([racer("append", tmp_path / "runs", number, count) for number in (1, 2, 3)])
    assert sum(s["lost"] for s in said) > 0  # they did meet
    events = head(registry, "mine", "busy").events
    assert [event.number for event in events] == list(range(1, 3 * count + 1))
    assert {n: sum(e.version == n for e in events) for n in (1, 2, 3)} == dict.fromkeys((1, 2, 3), count)


class Dies(Registry):
    """A writer that dies before its n-th writing call."""

    def __init__(self, location, left):
        super().__init__(location)
        self.left = left

    def call(self, method, *arguments, **named):
        if method.startswith(("create", "set", "delete")):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().call(method, *arguments, **named)


@pytest.mark.parametrize("writes", range(4))
def test_what_a_dead_writer_began_is_carried_out_by_the_next(registry, tmp_path, writes):
    dying = Dies(str(tmp_path / "runs"), writes)
    with pytest.raises(KeyboardInterrupt):
        promote(dying, "mine", BEST)
    # without the claim nothing happened; with it the promotion stands, and is carried out once
    expected = None if writes == 0 else BEST
    seen = head(registry, "mine", "champion")
    assert seen.champion == registry.aliases("mine").get("champion") == expected
    assert len(seen.events) == (0 if writes == 0 else 1)
    if expected:
        with pytest.raises(RegistryError, match="mine/1 is not promoted over mine/3"):
            promote(registry, "mine", WEAK)


def test_a_writer_who_comes_late_does_not_turn_back_the_alias(registry, monkeypatch):
    seen = head(registry, "mine", "champion")
    late = registry.call("create_experiment", decisions._claim("mine", "champion", 1), tags=claim_of(GOOD))
    assert append(registry, "mine", "champion", seen, Event(FORCED, WEAK, None)) is None
    # another writer carries out the late one's claim, and goes on
    promote(registry, "mine", BEST, force="went on")
    decisions._carry_out(registry, "mine", "champion", Event(FORCED, GOOD, None).signed(1), late)
    assert registry.aliases("mine")["champion"] == BEST
    # the same, where it was held up between looking and moving the alias
    registry.call("set_registered_model_alias", "mine", "champion", str(GOOD))
    decisions._follow_newest(registry, "mine", "champion", Event(FORCED, GOOD, None).signed(1))
    assert registry.aliases("mine")["champion"] == BEST
    assert [e.version for e in head(registry, "mine", "champion").events] == [GOOD, BEST]


def claim_of(number):
    return {"ialign.event": Event(FORCED, number, None).signed(1).text()}


def test_a_number_stays_taken_when_its_claim_is_put_away(registry):
    seen = head(registry, "mine", "champion")
    assert append(registry, "mine", "champion", seen, Event(REFUSED, WEAK, None)).number == 1
    assert append(registry, "mine", "champion", seen, Event(FORCED, BEST, None)) is None
    assert registry.aliases("mine") == {}


def test_an_old_number_is_not_taken_again_after_mlflow_has_collected_its_claim(registry):
    seen = head(registry, "mine", "champion")
    append(registry, "mine", "champion", seen, Event(FORCED, BEST, None))
    name = decisions._claim("mine", "champion", 1)
    claim = registry.call("get_experiment_by_name", name)
    registry.call("restore_experiment", claim.experiment_id)  # `mlflow gc` takes the name away for good
    registry.call("rename_experiment", claim.experiment_id, "collected")
    assert append(registry, "mine", "champion", seen, Event(FORCED, GOOD, None)) is None
    assert registry.aliases("mine")["champion"] == BEST


def test_a_record_always_fits_into_a_tag(registry):
    told = tuple(f"language {k} (suite): " + "x" * 200 for k in range(100))
    seen = head(registry, "mine", "champion")
    event = append(registry, "mine", "champion", seen, Event(FORCED, BEST, None, told, "r" * 3000))
    assert len(event.text()) <= 4800
    kept = head(registry, "mine", "champion").events[0]
    assert (kept.version, len(kept.reason)) == (BEST, 1000)
    assert kept.told[0] == told[0]
    assert kept.told[-1].endswith(" more")
