"""Processes that race for an alias; run as `python racer.py KIND REGISTRY ARGUMENT...`, one line of JSON a round.

promote: rounds 0, 1, ... of the alias `race-ROUND`, begun together when the file ROUND.go appears.
append: as many events as asked, each tried until it is in the history.
"""

import json
import sys
import time
from pathlib import Path

from ialign_ray.errors import RegistryError
from ialign_ray.registry.decisions import REFUSED, Event, append, head
from ialign_ray.registry.store import Registry


def race_promotions(registry, number, rounds, gate):
    from ialign_ray.registry.promotion import promote  # torch, which the other race need not load

    for k in range(rounds):
        (gate / f"{k}.{number}").touch()
        while not (gate / f"{k}.go").exists():
            time.sleep(0.001)
        try:
            event = promote(registry, "mine", number, f"race-{k}").event
            tell({"round": k, "number": number, "before": event.before, "told": event.told})
        except RegistryError as error:
            tell({"round": k, "number": number, "refused": str(error)})


def race_events(registry, number, count):
    lost = 0
    for _ in range(count):
        while append(registry, "mine", "busy", head(registry, "mine", "busy"), Event(REFUSED, number, None)) is None:
            lost += 1
    tell({"number": number, "lost": lost})


def tell(said):
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    kind, location, number, count, *rest = sys.argv[1:]
    opened = Registry(location)
    if kind == "promote":
        race_promotions(opened, int(number), int(count), Path(rest[0]))
    else:
        race_events(opened, int(number), int(count))
