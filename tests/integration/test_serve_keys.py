"""Keys of a deployment with two replicas: one count, one file, and what happens without them."""

import collections
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import psutil
import pytest
import yaml

from ialign_ray.config import ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.api import add_key, new_key

pytestmark = [pytest.mark.ray, pytest.mark.nightly]
CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a"}], "temperature": 0, "max_tokens": 1}
LIMIT, FOLLOW_S = 12, 1.0


@pytest.fixture(scope="module")
def keyed(ray_cluster, tiny_model_folder, tmp_path_factory):
    from ialign_ray.serving.deployment import running

    folder = tmp_path_factory.mktemp("keyed")
    made = {"few": new_key("few", requests_per_minute=LIMIT), "all": new_key("all"), "gone": new_key("gone")}
    for _, entry in made.values():
        add_key(folder / "keys.yaml", entry)
    settings = ServeConfig(
        models=[str(tiny_model_folder)], port=0, replicas=(2, 2), follow_s=FOLLOW_S, keys=str(folder / "keys.yaml")
    )
    with running(settings, str(folder / "registry"), ScalingConfig()) as url:
        yield url, {name: secret for name, (secret, _) in made.items()}, folder / "keys.yaml"


def asked(url, secret, times):
    """How many requests at the same time had each status."""
    headers = {"authorization": f"Bearer {secret}"}
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: httpx.post(url + CHAT, json=ASK, headers=headers, timeout=60), range(times))
        return collections.Counter(answer.status_code for answer in answers)


def test_two_replicas_count_together(keyed):
    url, secrets, _ = keyed
    begin = time.monotonic()
    found = asked(url, secrets["few"], 4 * LIMIT)
    refilled = (time.monotonic() - begin) * LIMIT / 60
    assert set(found) == {200, 429}
    assert LIMIT <= found[200] <= LIMIT + refilled + 1
    assert asked(url, secrets["all"], 20) == {200: 20}


def test_a_removed_key_stops_at_all_replicas_in_time(keyed):
    url, secrets, file = keyed
    assert asked(url, secrets["gone"], 8) == {200: 8}
    kept = [key for key in yaml.safe_load(file.read_text())["keys"] if key["name"] != "gone"]
    file.write_text(yaml.safe_dump({"keys": kept}))
    time.sleep(FOLLOW_S)
    assert asked(url, secrets["gone"], 20) == {401: 20}
    file.write_text("keys: [")  # torn: what was read before stays in force
    time.sleep(FOLLOW_S)
    assert asked(url, secrets["all"], 8) == {200: 8}
    assert asked(url, secrets["gone"], 8) == {401: 8}
    file.write_text(yaml.safe_dump({"keys": kept}))


def test_without_the_ledger_replicas_count_alone_and_a_new_one_begins_empty(keyed):
    url, secrets, _ = keyed
    title = "ray::ServeReplica:ialign:keys"
    (ledger,) = [p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []).startswith(title)]
    ledger.send_signal(signal.SIGKILL)
    begin, found = time.monotonic(), collections.Counter()
    while time.monotonic() - begin < 30:
        found += asked(url, secrets["few"], 8)
        assert asked(url, secrets["all"], 4) == {200: 4}
        assert asked(url, "wrong", 4) == {401: 4}
        time.sleep(0.5)
    spent = time.monotonic() - begin
    print(f"ledger killed: {dict(found)} in {spent:.0f} s at {LIMIT} a minute")
    assert set(found) <= {200, 429}
    # what two replicas may spend alone, the new ledger's minute, and what is refilled
    assert found[200] <= 2 * LIMIT + 2 * spent * LIMIT / 60 + 2
