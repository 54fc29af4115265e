"""Caches are named after declared versions: an output that changes must raise the version that declares it.

Where a test fails: if the new output is meant, raise the version that the message names and record version and digest
here; if it is not, the change under test has altered texts.
"""

import hashlib
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from every_format import write_corpora
from pydantic import TypeAdapter
from tiny_corpus import write_jsonl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from ugly_format import write_ugly

from ialign_ray.config import build_experiment
from ialign_ray.config.cleaning import Step
from ialign_ray.corpus import build, shards
from ialign_ray.corpus.build import build_corpus
from ialign_ray.corpus.cleaning import STEPS as CLEANING
from ialign_ray.corpus.formats import FORMATS
from ialign_ray.corpus.leaks import EvaluationIndex, LeakStep
from ialign_ray.corpus.splits import IdentityMeasurement
from ialign_ray.pocket.locate import DATA_VERSION, pocket_file
from ialign_ray.tasks.alignment import TASKS
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens import cache
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.prepare import prepare

STEPS = {
    "normalise": (2, "bc31da767408e1e3"),
    "characters": (2, "f442afb40098c344"),
    "empty": (1, "0cd2432dec7eed3a"),
    "identical": (2, "489f247df8d06936"),
    "length": (1, "927d5ec5c3ce11b2"),
    "script": (2, "61ef46b8d7d129e5"),
    "language": (1, "dbd422b2f6b44a03"),
    "numbers": (1, "19843c5f2b2270c7"),
    "links": (1, "d8a6ddca7c7075d4"),
    "ratio": (1, "e8f5c9878e9361bd"),
    "duplicates": (2, "0fa5eee31a05ba11"),
    "near_duplicates": (2, "0cc9f156c9d5efea"),
}
"""Step -> its version and the digest of what it makes of ROWS."""
READING = ((1, 2, 2, 2), "071477121afb62d8")
"""Versions of shards, finished corpora, the leak search and identities, and the digest of a build without steps."""
READERS = {
    "parquet": (1, "b92f2e98cd0e3478"),
    "jsonl": (2, "7bd131d1265dc30e"),
    "json": (1, "d62c189dd5602bbb"),
    "csv": (2, "431d22bcd9979a8f"),
    "tsv": (2, "bc10c266ac7b2b5f"),
    "tmx": (2, "57e31a22a9a301d2"),
    "xliff": (2, "7c207491b84a2a90"),
    "po": (2, "efeefb997d83c224"),
    "sheet": (1, "c7321ddefb5da222"),
    "lines": (1, "14b71689adbe1b40"),
    "articles": (1, "769bca29dcb43e74"),
    "disk": (1, "4b8f8a71c4169239"),
    "tatoeba": (1, "c5777ba803bff499"),
    "wmt": (1, "7e0f41fab99eb954"),
}
"""Format -> its version and the digest of what it reads of `every_format`."""
RENDERING = ((2, {"mlm": 2, "tlm": 2, "mt": 1, "xss": 2}), "6e7a43b4e3c9b4aa")
"""Versions of rendering and of each task, and the digest of examples of all of them."""
POCKET = (2, "f61e73efcc1f343c")

SETTINGS = {
    "length": {"max_words": 12},
    "ratio": {"minimum": 10, "deviations": 2},
    "language": {"recognised": 0.3, "minimum_characters": 10},
}
PLAIN = [
    (f"The {a} of house {k} is {b}.", f"{a.title()} di rumah {k} itu {c}.")
    for k, (a, b, c) in enumerate(
        (a, b, c)
        for a in ("owner", "teacher", "garden", "river", "market")
        for b, c in (("old", "sudah tua"), ("far away", "sangat jauh"), ("very quiet", "sunyi sekali"))
    )
]
UGLY = [
    ("Caf\u0065\u0301  is\topen", "Kafe\u00a0buka"),
    ("zero\u200bwidth \u0007bell", "lebar\u200dnol"),
    ("...", "!!!"),
    ("Same text here", "same text, here"),
    ("word " * 20, "kata " * 20),
    ("short", "kalimat yang sangat panjang sekali dan tidak ada habisnya sampai akhir hari ini juga"),
    ("Latin on one side only", "Это предложение написано по-русски"),
    ("It costs 12 and 40 coins", "Harganya 13 dan 41 koin"),
    ("See https://example.org/a", "Lihat https://example.org/b"),
    ("The owner of house 0 is old.", "Owner di rumah 0 itu sudah tua."),
    ("The owner of house 0 is old!", "Owner di rumah 0 itu sudah tua sekali."),
    ("This is a perfectly good English sentence.", "Das ist ein ganz gewöhnlicher deutscher Satz."),
    ("A sentence of the test set lies here", "Kalimat set uji ada di sini"),
]
ROWS = [{"sid": str(k), "eng": a, "ind": b} for k, (a, b) in enumerate([*PLAIN, *UGLY])]


def digest(content):
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


@pytest.fixture
def built(tmp_path):
    """Builds ROWS with some steps: all kept and all dropped texts."""
    write_jsonl(tmp_path / "rows.jsonl", ROWS)

    def make(steps):
        experiment = build_experiment(
            {
                "name": "golden",
                "languages": {"l1": ["eng"], "l2": ["ind"]},
                "model": {"id": "none"},
                "corpora": [
                    {
                        "name": "a",
                        "path": "rows.jsonl",
                        "columns": {"eng": "eng", "ind": "ind"},
                        "id": "sid",
                        "holdout": 0.2,
                    }
                ],
                "replay": {"ratio": 0},
                "cleaning": {"steps": steps},
                "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
            },
            "x",
        )
        index = EvaluationIndex.build(["A sentence of the test set lies here"])
        corpus = build_corpus(experiment, index)
        kept = {split: corpus.read("a", split).to_pylist() for split in ("train", "heldout")}
        dropped = [pq.read_table(path).to_pylist() for path in corpus.drops("a")]
        return digest([kept, dropped])

    return make


@pytest.mark.parametrize("step", STEPS)
def test_a_steps_output_changes_with_its_version_alone(built, step):
    settings = {"step": step, **SETTINGS.get(step, {})}
    version = CLEANING[type(TypeAdapter(Step).validate_python(settings))].version
    assert (version, built([settings])) == STEPS[step], f"raise `version` of the step {step!r}, or fix it"


def test_each_step_changes_something(built):
    assert len({value for _, value in STEPS.values()} | {READING[1]}) == len(STEPS) + 1, "ROWS miss a step"


def test_reading_leaks_and_splits_change_with_their_versions_alone(built):
    versions = (shards.VERSION, build.VERSION, LeakStep.version, IdentityMeasurement.version)
    assert (versions, built([])) == READING, "raise the version of shards, corpora, leaks or identities, or fix them"


@pytest.fixture(scope="module")
def formats_built(tmp_path_factory):
    """One build of good and of ugly rows in every format; format -> what was read of each."""
    folder = tmp_path_factory.mktemp("formats")
    good, ugly = write_corpora(folder), write_ugly(folder)
    same = {"jsonl-gz-glob": "jsonl", "moses": "lines", "spreadsheet": "sheet"}
    corpora = {(same.get(name, name), name): corpus for name, corpus in good.items()}
    corpora = {key: corpus for key, corpus in corpora.items() if key[0] in ugly}
    corpora |= {(name, f"ugly-{name}"): corpus for name, corpus in ugly.items()}
    experiment = build_experiment(
        {
            "name": "formats",
            "languages": {"l1": ["eng"], "l2": ["jav"]},
            "model": {"id": "none"},
            "corpora": [{"name": name, **corpus} for (_, name), corpus in corpora.items()],
            "replay": {"ratio": 0},
            "cleaning": {"steps": []},
            "storage": {"data": str(folder), "runs": str(folder / "runs")},
        },
        "x",
    )
    read = build_corpus(experiment, EvaluationIndex.build([]))
    found = {}
    for kind, name in corpora:
        counts = read.counts["corpora"][name]
        refused = [bad["line"] for bad in counts["bad"]]  # not the reasons, which libraries word
        dropped = [pq.read_table(path).to_pylist() for path in read.drops(name)]
        found.setdefault(kind, []).append([read.read(name).to_pylist(), dropped, counts["rows_in"], refused])
    return found


@pytest.mark.parametrize("name", FORMATS.builtin)
def test_a_formats_tables_change_with_its_version_alone(formats_built, name):
    good, ugly = formats_built[name]
    assert (good[2], ugly[2] > 1) == (60, True), "the sample is not read"
    assert (FORMATS[name].version, digest([good, ugly])) == READERS.get(name), (
        f"raise `version` of the format {name!r}, or fix its reader"
    )


def test_examples_change_with_the_version_of_rendering_alone(experiment_data):
    core = Tokenizer(
        models.BPE(vocab={c: k for k, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(["</s>"])
    encoder = Encoder.of(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"), "never", "\n")
    # without the matching, which leaves no pair of so small a corpus to XSS
    plan: Plan = replace(prepare(build_experiment(experiment_data, "x")).plan, matching=None)
    drawn = [plan.draw(i) for i in range(300)]
    assert {d.example.task for d in drawn} == {"mlm", "tlm", "mt", "xss", "replay"}
    ids = [encoder.encode(d.example.prompt, d.example.target, d.example.spans) for d in drawn]
    worded = [{name: value for name, value in vars(d.example).items() if name != "turns"} for d in drawn]
    examples = [[d.row_id, d.epoch, d.source, one] for d, one in zip(drawn, worded, strict=True)]
    versions = cache.VERSION, {name: task.version for name, task in TASKS.builtin.items()}
    found = versions, digest([examples, ids])
    assert found == RENDERING, "raise `version` of the task, or tokens.cache.VERSION, or fix the rendering"


def test_pocket_data_change_with_their_version_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path))
    tables = [pq.read_table(pocket_file(f"pocket:{name}")).to_pylist() for name in ("parallel", "sentiment")]
    instructions = pocket_file("pocket:instructions").read_text(encoding="utf-8")
    assert (DATA_VERSION, digest([tables, instructions])) == POCKET, "raise DATA_VERSION and BASE_VERSION, or fix it"
