import os
import shutil
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["COLUMNS"] = "200"  # rich takes the width that is set when the command line is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
import yaml
from hypothesis import settings
from tiny_corpus import sentences, tiny_experiment

torch.set_num_threads(1)
settings.register_profile("nightly", deadline=None)
settings.register_profile("quick", deadline=None, max_examples=30)
settings.load_profile(os.environ.get("IALIGN_TESTS", "nightly"))


BUDGET = 5.0
"""CPU seconds, children included, that a test without a mark may take: more is listed; three times as much fails."""
UNLIMITED = {"slow", "ray", "nightly", "browser", "cluster"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    began = os.times()
    result = yield
    spent = sum(now - before for now, before in zip(os.times()[:4], began[:4], strict=True))
    if spent > BUDGET and not UNLIMITED & {mark.name for mark in item.iter_markers()}:
        item.user_properties.append(("over budget", round(spent, 1)))
        assert spent < 3 * BUDGET, f"{spent:.0f} s of CPU: mark it slow, or make it faster"
    return result


def pytest_terminal_summary(terminalreporter):
    """List what should be marked slow, whichever process ran it."""
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, [])]
    for report in reports:
        for name, seconds in getattr(report, "user_properties", []):
            if name == "over budget" and report.when == "call":
                terminalreporter.line(f"{report.nodeid}: {seconds} s of CPU without the mark `slow`")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    text = [row[c] for row in sentences(80) for c in ("eng", "ind", "jav")]
    text += ["Translate the following text from English to Indonesian.", "Restore the original Javanese sentence."] * 5
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(text, vocab_size=512, min_frequency=1, special_tokens=["<eos>", "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory, tiny_tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def api(tiny_model, tiny_tokenizer):
    """A running server of tiny models, without keys."""
    from serving_app import running

    with running(tiny_model, tiny_tokenizer) as one:
        yield one


@pytest.fixture
def experiment_data(tmp_path, tiny_model_folder):
    """A valid experiment as plain data: three corpora, instructions and a suite in tmp_path."""
    return tiny_experiment(tmp_path, tiny_model_folder)


@pytest.fixture
def write_yaml(tmp_path):
    """Writes plain data as an experiment file and returns its path."""

    def write(data, name="experiment.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def ialign(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from ialign_ray.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ialign", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    return run


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """MLflow's empty database: its migrations take seconds, so they run once."""
    from ialign_ray.registry.store import Registry

    folder = tmp_path_factory.mktemp("migrated")
    Registry(str(folder), create=True).names()
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def library(tmp_path_factory, tiny_model_folder, migrated):
    """A registry whose model `mine` has the versions of `runs.STRENGTHS`, and no champion yet.

    It is made once; tests change copies of the database.
    """
    from runs import CONTROL, STRENGTHS, make_run, small_experiment

    from ialign_ray.registry.promotion import register
    from ialign_ray.registry.store import Registry

    folder = tmp_path_factory.mktemp("library")
    experiment = small_experiment(folder, tiny_model_folder)
    (folder / "runs").mkdir()
    shutil.copy(migrated, folder / "runs" / "mlflow.db")
    registry = Registry(str(folder / "runs"))
    for seed, (name, strength) in enumerate(STRENGTHS.items()):
        make_run(experiment, f"control-s{seed}", CONTROL, seed, ratio=1.0)
        register(registry, make_run(experiment, name, strength, seed), "mine")
    return folder


@pytest.fixture
def registry(library, tmp_path, monkeypatch):
    """A copy of the library's database, at `tmp_path/runs`; the versions' files are shared."""
    from ialign_ray.registry.store import Registry

    monkeypatch.setenv("IALIGN_CACHE", str(library / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(library / "runs" / "mlflow.db", tmp_path / "runs" / "mlflow.db")
    return Registry(str(tmp_path / "runs"))
