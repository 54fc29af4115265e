"""Keys: whose they are, what they open, how often; where they lie; who may ask without one."""

import json

import httpx2 as httpx
import openai
import pytest
import yaml
from serving_app import error_of, running, serving
from starlette.applications import Starlette
from starlette.routing import Mount

from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ConfigError
from ialign_ray.serving.api import KeyRing, add_key, check_exposure, keys_of, new_key
from ialign_ray.serving.keys import KeyFollower, digest_of
from ialign_ray.serving.ledger import Bucket, KeyLedger

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a private matter"}], "max_tokens": 3, "temperature": 0}
LONG = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 480, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def keyed(tiny_model, tiny_tokenizer):
    """A server with a key for everything, one for a model, and one of few requests and tokens."""
    made = {
        "all": new_key("all"),
        "one": new_key("one", models=["chat"]),
        "few": new_key("few", requests_per_minute=3),
        "frugal": new_key("frugal", tokens_per_minute=20),
    }
    with running(tiny_model, tiny_tokenizer, keys=KeyRing([entry for _, entry in made.values()])) as api:
        yield api, {name: secret for name, (secret, _) in made.items()}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer ialign-" + "x" * 9999])
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/metrics", "/v1/nowhere"])
def test_without_a_known_key_nothing_is_told(keyed, given, path):
    api, _ = keyed
    response = api.get(path, headers={} if given is None else {"authorization": given})
    assert error_of(response, 401)["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_is_asked_for_before_a_body_is_read(keyed):
    api, _ = keyed
    error_of(api.post(CHAT, content=b"{nonsense", headers={"content-type": "application/json"}), 401)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
def test_health_and_documentation_need_no_key(keyed, path):
    assert keyed[0].get(path).status_code == 200


def test_a_prefix_is_no_way_around_the_key(keyed):
    api, secrets = keyed
    with serving(Starlette(routes=[Mount("/pre", api.app)])) as url:
        error_of(httpx.get(f"{url}/pre/v1/models"), 401)
        error_of(httpx.get(f"{url}/pre/metrics"), 401)
        assert httpx.get(f"{url}/pre/v1/models", headers=bearer(secrets["all"])).status_code == 200
        assert httpx.get(f"{url}/pre/healthz").status_code == 200


def test_a_key_opens_the_models_that_it_names(keyed):
    api, secrets = keyed
    everything, one = api.openai(secrets["all"]), api.openai(secrets["one"])
    assert [m.id for m in everything.models.list()] == ["plain", "chat", "trained"]
    assert [m.id for m in one.models.list()] == ["chat"]
    assert one.chat.completions.create(**ASK, model="chat").choices
    for name in ("plain", "nobody"):
        with pytest.raises(openai.NotFoundError, match="not for this key"):
            one.chat.completions.create(**ASK, model=name)
    assert api.post(CHAT, ASK, headers=bearer(secrets["one"])).json()["model"] == "chat"  # the first of its own
    with pytest.raises(openai.AuthenticationError):
        api.openai("sk-wrong").models.list()


def test_requests_beyond_a_keys_rate_are_told_when_to_come_again(keyed):
    api, secrets = keyed
    answers = [api.post(CHAT, ASK, headers=bearer(secrets["few"])) for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 200, 200, 429]
    assert error_of(answers[-1], 429)["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert api.post(CHAT, ASK, headers=bearer(secrets["all"])).status_code == 200


def test_tokens_are_charged_when_they_are_known(keyed):
    api, secrets = keyed
    answers = [api.post(CHAT, LONG | {"max_tokens": 60}, headers=bearer(secrets["frugal"])) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 429]
    assert int(answers[1].headers["retry-after"]) > 60  # the first answer cost minutes


def test_a_bucket_fills_again_and_may_owe():
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.spend(90)
    assert bucket.wait(1) == pytest.approx(31)
    now[0] = 31.5
    assert bucket.wait(1) == 0
    now[0] = 1e6
    assert (bucket.wait(60), bucket.wait(61)) == (0, 0)  # more than a minute's worth passes when all of it is there
    bucket.spend(1)
    assert bucket.wait(61) == pytest.approx(1)


def test_a_clock_that_jumps_changes_no_limit():
    """The clock is monotonic; one that is not, of a machine that was suspended or moved, refills nothing."""
    now = [1000.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.spend(60)
    now[0] = -1e9
    assert bucket.wait(1) == pytest.approx(1)
    now[0] += 0.5
    assert bucket.wait(1) == pytest.approx(0.5)


def test_a_refused_request_costs_nothing():
    now = [0.0]
    secret, key = new_key("k", requests_per_minute=2)
    ledger = KeyLedger(KeyRing([key]), clock=lambda: now[0])
    assert [ledger.enter(digest_of(secret)).wait for _ in range(5)] == [0, 0, 30, 30, 30]
    now[0] = 30.0
    assert ledger.enter(digest_of(secret)).wait == 0


def test_keys_lie_hashed_in_their_file(tmp_path):
    path = tmp_path / "keys.yaml"
    (first, one), (second, two) = new_key("a", models=["m"]), new_key("b", tokens_per_minute=5)
    add_key(path, one)
    add_key(path, two)
    assert first not in path.read_text()
    ring = KeyRing.read(path)
    assert (
        ring.find(digest_of(first)).name,
        ring.find(digest_of(second)).tokens_per_minute,
        ring.find(digest_of(first + "x")),
    ) == ("a", 5, None)
    assert ring.find(digest_of(first)).allows("m")
    assert not ring.find(digest_of(first)).allows("n")
    with pytest.raises(ConfigError, match="already"):
        add_key(path, new_key("a")[1])
    assert KeyRing.from_environment({"IALIGN_API_KEYS": json.dumps(yaml.safe_load(path.read_text()))}).find(
        digest_of(first)
    )
    assert KeyRing.from_environment({}) is None


def test_the_file_of_the_settings_comes_before_the_environment(tmp_path, monkeypatch):
    (secret, entry), (other, elsewhere) = new_key("a"), new_key("b")
    add_key(tmp_path / "keys.yaml", entry)
    monkeypatch.setenv("IALIGN_API_KEYS", json.dumps({"keys": [elsewhere.model_dump(exclude_none=True)]}))
    assert keys_of(ServeConfig(keys=str(tmp_path / "keys.yaml"))).find(digest_of(secret))
    assert keys_of(ServeConfig()).find(digest_of(other))
    monkeypatch.delenv("IALIGN_API_KEYS")
    assert keys_of(ServeConfig()) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "dictionary|mapping|object"),
        ("keys: []", "at least 1"),
        ("keys: [{name: a, sha256: ialign-secret}]", "sha256"),
        ("keys: [{name: a b, sha256: '" + "0" * 64 + "'}]", "name"),
        ("keys: [{name: a, sha256: '" + "0" * 64 + "', key: ialign-secret}]", "key"),
        ("keys: [" + "{name: a, sha256: '" + "0" * 64 + "'}, " * 2 + "]", "twice|mapping|YAML"),
        ("a: [", "YAML"),
        ("\x00", "YAML"),
    ],
)
def test_a_malformed_key_file_is_refused_without_telling_a_key(tmp_path, text, said):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        KeyRing.read(path)
    assert "ialign-secret" not in str(caught.value)
    assert "keys.yaml" in str(caught.value)


def test_a_missing_key_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing.read(tmp_path / "none.yaml")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        KeyRing.read(tmp_path / "latin")


def test_a_bad_name_of_a_new_key_is_refused():
    with pytest.raises(ConfigError, match="name"):
        new_key("../a")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "localhost"])
def test_this_machine_may_ask_without_a_key(host):
    check_exposure(ServeConfig(host=host), None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_others_need_one(host):
    with pytest.raises(ConfigError, match=r"serve\.keys"):
        check_exposure(ServeConfig(host=host), None)
    check_exposure(ServeConfig(host=host), KeyRing([new_key("a")[1]]))


def test_a_key_that_is_removed_stops_and_one_that_is_added_begins(tmp_path, caplog):
    path, used = tmp_path / "keys.yaml", []
    (first, one), (second, two) = new_key("a"), new_key("b")
    add_key(path, one)
    follower = KeyFollower(str(path), used.append)
    follower.check()
    follower.check()
    assert len(used) == 1  # nothing has changed
    add_key(path, two)
    follower.check()
    assert used[-1].find(digest_of(second)).name == "b"
    path.write_text(yaml.safe_dump({"keys": [two.model_dump(exclude_none=True)]}))
    follower.check()
    assert used[-1].find(digest_of(first)) is None
    path.write_text("keys: []")
    follower.check()
    assert used[-1].find(digest_of(second)) is None


@pytest.mark.parametrize("how", ["gone", "torn", "a folder", "half of UTF-8", "open to all"])
def test_a_key_file_that_cannot_be_read_any_more_changes_nothing(tmp_path, caplog, how):
    path, used = tmp_path / "keys.yaml", []
    secret, entry = new_key("a")
    add_key(path, entry)
    follower = KeyFollower(str(path), used.append)
    follower.check()
    text = path.read_text()
    if how in ("gone", "a folder"):
        path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "torn":
        path.write_text(text[:-30])
    elif how == "half of UTF-8":
        path.write_bytes(b"\xff\xfe")
    elif how == "open to all":
        path.write_text(text + "# changed\n")
        path.chmod(0o666)
    for _ in range(3):
        follower.check()
    assert len(used) == 1
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "remain valid" in caplog.text
    if how == "a folder":
        path.rmdir()
    path.unlink(missing_ok=True)
    add_key(path, new_key("b")[1])
    follower.check()
    assert used[-1].find(digest_of(secret)) is None


def test_a_key_file_that_others_may_change_is_refused(tmp_path):
    path = tmp_path / "keys.yaml"
    add_key(path, new_key("a")[1])
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="chmod o-w"):
        KeyRing.read(path)


def test_the_metrics_of_a_limited_key_are_those_of_its_models(keyed):
    api, secrets = keyed
    for name in ("plain", "chat"):
        api.post(CHAT, ASK | {"model": name}, headers=bearer(secrets["all"]))
    whole, own = (api.get("/metrics", headers=bearer(secrets[name])).text for name in ("all", "one"))
    assert 'model="plain"' in whole
    assert "ialign_engine" in whole
    assert 'model="chat"' in own
    samples = [line for line in own.splitlines() if not line.startswith("#")]
    assert samples
    assert all('model="chat"' in line for line in samples)
