"""What a job takes along: what it is asked to, no secrets, not too much, and the same bytes each time."""

import os
import zipfile

import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.jobs import package
from ialign_ray.jobs.package import Package

SENT = ("experiment.yaml", "code/model.py", "code/templates/jav.yaml", "notes.md", "corpus.jsonl")
LEFT_OUT = (
    *(".git/config", ".venv/bin/python", "code/__pycache__/model.pyc", ".mypy_cache/x.json", "mine.egg-info/PKG-INFO"),
    *("mlflow.db", "model.safetensors", "deep/er/w.pt", "ignored/by-git.txt", "code/scratch.log", "code/only-ray.csv"),
)
SECRET_NAMES = (
    *(".env", "code/.env.local", "prod.env", ".envrc", "server.pem", "server.key", "a.p12", "a.jks", "a.kdbx"),
    *(
        "id_rsa",
        "id_ed25519.pub",
        "id_ecdsa",
        ".aws/credentials",
        ".ssh/config",
        ".netrc",
        "_netrc",
        ".git-credentials",
    ),
    *(".npmrc", ".pypirc", ".pgpass", ".docker/config.json", ".kube/config", "kubeconfig", "kubeconfig.yaml"),
    *(".config/gcloud/application_default_credentials.json", "gcp-service-account.json", "service_account.json"),
    *("credentials.json", "aws_credentials", "api_keys.yaml", "keys.yaml", "my-secret.yaml", "client_secret.json"),
    *("token", "token.txt", "hf_token", ".huggingface/token", ".ray/auth_token", "passwords.csv", "terraform.tfvars"),
    *("prod.tfstate", ".htpasswd", ".vault-token", ".azure/accessTokens.json", "backup.gpg", ".boto", ".s3cfg"),
)
ISSUED = {
    "GitHub Token": "ghp_" + "a1B2" * 9,
    "AWS Access Key": "AKIA" + "ABCDEFGH12345678",
    "Private Key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "Hugging Face token": "hf_" + "aB3" * 11 + "x",
    "Google API key": "AIza" + "aB3_5" * 7,
    "Basic Auth Credentials": "https://user:hunter2hunter2@example.com/repo.git",
    "Slack Token": "xoxb-" + "123456789012-123456789012-abcdefghijklmnopqrstuvwx",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "age secret key": "AGE-SECRET-KEY-1" + "Q" * 58,
    "Kubernetes client key": "client-key-data: " + "LS0tLS1CRUdJTiBSU0E" * 2,
}


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    for name in (*SENT, *LEFT_OUT):
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}")
    (work / ".gitignore").write_text("ignored/\n")
    (work / "code" / ".gitignore").write_text("*.log\n!keep.log\n")
    (work / "code" / ".rayignore").write_text("/only-ray.csv\n")
    return work


def test_nothing_is_sent_that_nobody_named(folder):
    assert Package.of(folder, []).files == ()
    assert Package.of(folder, ["notes.md", "code/templates", "{language}.jsonl", "nothing.md"]).files == (
        *("code/templates/jav.yaml", "corpus.jsonl", "notes.md"),
    )


def test_a_folder_is_sent_without_what_is_ignored_in_it(folder):
    (folder / "code" / "keep.log").write_text("kept")
    sent = {*("code/model.py", "code/templates/jav.yaml", "code/keep.log"), "code/.gitignore", "code/.rayignore"}
    assert set(Package.of(folder, ["code"]).files) == sent
    assert "ignored/by-git.txt" in Package.of(folder, ["ignored/by-git.txt"]).files


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_file_that_is_called_like_a_secret_is_refused_unless_it_is_named(folder, name):
    path = folder / "code" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    with pytest.raises(ConfigError) as caught:
        Package.of(folder, [], ["code"])
    assert f"--include code/{name}" in str(caught.value)
    assert f"code/{name}" in Package.of(folder, [f"code/{name}"], ["code", f"code/{name}"]).files


@pytest.mark.parametrize("kind", ISSUED)
def test_a_secret_in_a_text_is_found_by_its_form(folder, kind):
    (folder / "notes.md").write_text(f"one\ntwo {ISSUED[kind]}\n")
    with pytest.raises(ConfigError) as caught:
        Package.of(folder, ["notes.md", "corpus.jsonl"])
    assert f"notes.md ({kind}, line 2)" in str(caught.value)
    assert "corpus" not in str(caught.value)
    assert Package.of(folder, ["notes.md"], ["./notes.md"]).files == ("notes.md",)


@pytest.mark.parametrize(
    "text",
    ["Tembung sandi: password rahasia, token 12345", "sha256: " + "0a1b2c3d" * 8, "kunci=AKIA", "x" * 100_000, "hf_x"],
)
def test_sentences_and_digests_are_no_secrets(folder, text):
    (folder / "notes.md").write_text(text)
    assert Package.of(folder, ["notes.md"]).files == ("notes.md",)


def test_every_file_in_doubt_is_listed_at_once(folder):
    (folder / "one.md").write_text(ISSUED["GitHub Token"])
    (folder / "two.key").write_text("x")
    with pytest.raises(ConfigError, match=r"^2 files .*one.md \(GitHub Token, line 1\), two.key \(its name\)"):
        Package.of(folder, ["one.md", "two.key"])


def test_links_out_of_the_folder_stay_here(folder, tmp_path):
    (tmp_path / "outside.txt").write_text("private")
    for link, target in {
        "out.txt": tmp_path / "outside.txt",
        "home": tmp_path,
        "loop": folder,
        "dead": folder / "no",
    }.items():
        (folder / "code" / link).symlink_to(target)
    (folder / "code" / "inside.md").symlink_to(folder / "notes.md")
    found = set(Package.of(folder, ["code", "code/out.txt", "code/home", "../outside.txt"]).files)
    assert "code/inside.md" in found
    assert not found & {"code/out.txt", "code/dead", "../outside.txt"}
    assert not [f for f in found if f.startswith(("code/home", "code/loop"))]
    with pytest.raises(ConfigError, match="--include code/out.txt "):
        Package.of(folder, [], ["code/out.txt"])


def test_the_zip_holds_our_code_where_the_folder_has_none_and_is_the_same_each_time(folder, tmp_path):
    (folder / "notes.md").chmod(0o755)
    Package.of(folder, SENT).write(tmp_path / "one.zip")
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    Package.of(folder, SENT).write(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        assert archive.read("code/model.py") == b"in code/model.py"
        assert archive.getinfo("notes.md").external_attr >> 16 == 0o755
    assert "ialign_ray/jobs/__main__.py" in names
    assert "ialign_ray/tasks/templates/eng.yaml" in names
    assert not [n for n in names if "__pycache__" in n]


def test_a_checkout_brings_its_own_code(folder, tmp_path):
    (folder / "ialign_ray").mkdir()
    for name in ("__init__.py", "words.yaml", "notes.txt", ".env"):
        (folder / "ialign_ray" / name).write_text("mine = True\n")
    Package.of(folder, []).write(tmp_path / "one.zip")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["ialign_ray/__init__.py", "ialign_ray/words.yaml"]


def test_too_much_is_refused_by_name_before_anything_is_packed(folder, monkeypatch):
    monkeypatch.setattr(package, "LIMIT", 2 * 2**20)
    (folder / "large.csv").write_bytes(bytes(2 * 2**20))
    with pytest.raises(ConfigError, match=r"2 MiB .* 2 are allowed \(largest: large.csv \(2 MiB\)"):
        Package.of(folder, [*SENT, "large.csv"])
    assert "notes.md" in Package.of(folder, SENT).files


def test_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="--working-dir .*none is not a folder; pass the one containing"):
        Package.of(tmp_path / "none", [])
