import json
import re
from functools import partial

import pytest
from refusals import refused
from tiny_corpus import sentences, write_jsonl

from ialign_ray.cli.data import data as data_app
from ialign_ray.languages import display_name

COMMANDS = ["build", "inspect", "sample"]


@pytest.fixture
def ialign(ialign):
    """Runs `ialign data ...`."""
    return partial(ialign, "data")


@pytest.fixture
def file(write_yaml, experiment_data, tmp_path):
    """Three corpora, of which the second lost a text to `identical` and holds one out of four back."""
    rows = sentences(40)[16:28]
    rows[3]["jav"] = rows[3]["eng"]
    rows[4]["ind"] = rows[4]["eng"] + "\x1b[31m"
    write_jsonl(tmp_path / "second.jsonl", rows)
    experiment_data["corpora"][1]["holdout"] = 0.4
    experiment_data["evaluate"]["suites"] = []
    return write_yaml(experiment_data)


def records(result):
    code, out, _ = result
    assert code == 0
    return [json.loads(line) for line in out.splitlines()]


def built_folder(tmp_path):
    root = tmp_path / "runs" / "corpora" / "tiny"
    return root / (root / "latest").read_text().strip()


def test_build_prints_the_counts_of_every_corpus(ialign, file, tmp_path):
    code, out, _ = ialign("build", file)
    assert code == 0
    table = out[out.index("second: texts per language") : out.index("third: texts per language")]
    assert re.search(r"texts +read +characters +identical +kept +train +heldout", table)
    counts = json.loads((built_folder(tmp_path) / "counts.json").read_text())["corpora"]["second"]["splits"]
    train, held = (counts[s]["texts"]["jav"] for s in ("train", "heldout"))
    assert train + held == 11
    assert re.search(rf"^jav +12 +0 +-1 +11 +{train} +{held}$", table, re.MULTILINE)
    assert re.search(
        rf"^rows +12 +0 +0 +12 +{counts['train']['rows']} +{counts['heldout']['rows']}$", table, re.MULTILINE
    )
    assert "Nothing dropped or changed by:" in table
    assert "duplicates: 0 groups of equal rows; 0 rows dropped" in out
    assert f"Corpus:    {built_folder(tmp_path)}\n" in out
    assert f"ialign data inspect {file}" in out


def test_inspect_prints_and_writes_the_page(ialign, file, tmp_path):
    code, out, _ = ialign("inspect", file)
    assert code == 0
    page = tmp_path / "runs" / "corpora" / "tiny" / f"{built_folder(tmp_path).name}.html"
    assert out.rstrip().endswith(f"Page: {page}")
    text = page.read_text(encoding="utf-8")
    for part in ("second: texts per language", "second: characters per text", "1 of 1 texts dropped by identical"):
        assert part in out
    assert f"{tmp_path / 'second.jsonl'}:4" in out
    assert re.search(r"eng +\d+ +[\d.]+ ", out[out.index("Tokens of") :])
    for task in ("mt", "tlm", "mlm", "xss"):
        assert re.search(rf"^{task} +[\d,]+ ", out, re.MULTILINE)
        assert len(re.findall(rf"─ {task} eng → ind ", out)) == 1
        assert f"<summary>{task} eng → jav " in text
    assert "\x1b" not in text
    assert "\x1b[31m" not in out


def test_inspect_without_tokens_needs_no_model(ialign, file, tmp_path):
    target = tmp_path / "elsewhere.html"
    arguments = ("inspect", file, "--set", "model.id=/none/such", "--page", target)
    refused(ialign(*arguments), "/none/such", "--no-tokens")
    code, out, _ = ialign(*arguments, "--no-tokens")
    assert code == 0
    assert "Tokens of" not in out
    assert "Tokens were not measured" in target.read_text(encoding="utf-8")


def test_an_empty_corpus_is_said_and_shown(ialign, file):
    code, out, _ = ialign("inspect", file, "--set", "cleaning.steps=[{step: length, max_words: 1}]", "--no-tokens")
    assert code == 0
    assert out.count("Nothing is left of this corpus.") == 3
    assert ialign("inspect", file, "--set", "cleaning.steps=[{step: length, max_words: 1}]")[0] == 0


def test_samples_are_seeded(ialign, file):
    once, again = (records(ialign("sample", file, "-n", 6, "--json")) for _ in range(2))
    other = records(ialign("sample", file, "-n", 6, "--json", "--seed", 1))
    assert once == again
    assert len(once) == len({r["id"] for r in once}) == 6
    assert {r["id"] for r in once} != {r["id"] for r in other}
    # a larger sample holds the smaller one
    assert records(ialign("sample", file, "-n", 9, "--json"))[:6] == once


def test_samples_are_what_lies_in_the_files(ialign, file, tmp_path):
    source = sentences(40)
    for row in records(ialign("sample", file, "-n", 99, "--json", "--corpus", "third")):
        assert row["corpus"] == "third"
        assert row["file"] == str(tmp_path / "third.parquet")
        assert row["texts"] == {code: source[27 + row["line"]][code] for code in ("eng", "ind", "jav")}


def test_samples_are_filtered(ialign, file):
    every = records(ialign("sample", file, "-n", 99, "--json", "--corpus", "second"))
    held = records(ialign("sample", file, "-n", 99, "--json", "--corpus", "second", "--split", "heldout"))
    assert len(every) + len(held) == 12
    assert not {r["id"] for r in every} & {r["id"] for r in held}
    wanted = ("sample", file, "-n", 99, "--json", "--corpus", "second", "--language", "jv", "--split")
    javanese = [r for split in ("train", "heldout") for r in records(ialign(*wanted, split))]
    assert len(javanese) == 11
    assert {frozenset(r["texts"]) for r in javanese} == {frozenset(("eng", "jav"))}


def test_dropped_texts_are_sampled(ialign, file):
    [row] = records(ialign("sample", file, "--json", "--dropped", "identical"))
    assert (row["corpus"], row["language"], row["step"], row["line"]) == ("second", "jav", "identical", 4)
    assert row["text"] == row["pivot"]
    assert records(ialign("sample", file, "--json", "--dropped", "identical", "--language", "ind")) == []
    assert records(ialign("sample", file, "--json", "--dropped", "empty")) == []
    code, out, _ = ialign("sample", file, "--dropped", "identical", "--corpus", "third")
    assert (code, out.strip()) == (0, "No rows match these filters.")


def test_rows_are_rendered_with_every_task(ialign, file):
    rows = records(ialign("sample", file, "-n", 2, "--json", "--language", "jav"))
    prompts = records(ialign("sample", file, "-n", 2, "--json", "--language", "jav", "--rendered"))
    cases = {(row["id"], task, d) for row in rows for task in ("mlm", "mt", "tlm", "xss") for d in ("ej", "je")}
    assert {(p["id"], p["task"], p["source_language"][0] + p["target_language"][0]) for p in prompts} == cases
    texts = {row["id"]: row["texts"] for row in rows}
    for p in prompts:
        if p["task"] == "mt":
            assert texts[p["id"]][p["source_language"]] in p["prompt"]
            assert p["target"] == texts[p["id"]][p["target_language"]]
        if p["task"] == "xss":
            assert p["rendered_as"] == "xss"  # there are sentences that do not belong together
    assert display_name("jav") in " ".join(p["prompt"] for p in prompts)


def test_samples_on_a_terminal_act_on_nothing(ialign, file):
    code, out, _ = ialign("sample", file, "-n", 99, "--set", "cleaning.steps=[]", "--split", "train")
    held = ialign("sample", file, "-n", 99, "--set", "cleaning.steps=[]", "--split", "heldout")[1]
    assert code == 0
    assert "\x1b" not in out + held
    assert "‹U+001B›[31m" in out + held
    assert "first.csv:" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--corpus", "fourth"], ["corpus 'fourth'", "first, second, third"]),
        (["--language", "sun"], ["language 'sun'", "eng, ind, jav"]),
        (["--language", "no such"], ["language 'no such'", "eng, ind, jav"]),
        (["--dropped", "identicle"], ["step 'identicle'", "identical", "leaks"]),
        (["--split", "test"], ["split 'test'", "train, heldout"]),
        (["--dropped", "identical", "--rendered"], ["--dropped and --rendered"]),
        (["--set", "cleaning.steps=[nothing]"], ["nothing"]),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_known(ialign, file, arguments, parts):
    refused(ialign("sample", file, *arguments), *parts)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_file(ialign, command, tmp_path):
    refused(ialign(command, tmp_path / "none.yaml"), "none.yaml does not exist")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(ialign, command):
    code, out, _ = ialign(command, "--help")
    assert code == 0
    assert re.search(rf"Example: +ialign data {command}", out)


def test_help_lists_every_command(ialign):
    code, out, _ = ialign("--help")
    assert code == 0
    assert [c for c in COMMANDS if not re.search(rf"│ {c} ", out)] == []
    assert {c.callback.__name__ for c in data_app.registered_commands} == set(COMMANDS)


def test_warnings_of_the_tokenizer_are_printed(ialign, file, monkeypatch):
    monkeypatch.setattr("ialign_ray.inspection.tokenizer_fit.WORSE", 0.0)
    code, out, _ = ialign("inspect", file)
    assert code == 0
    assert re.search(r"warning: jav: [\d.]+ tokens per word against [\d.]+ for eng", out)


def test_a_long_text_is_cut_on_the_terminal_and_whole_in_json(ialign, file, tmp_path):
    path = tmp_path / "second.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[7]["jav"] = "dawa " * 100_000
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    code, out, _ = ialign("sample", file, "--dropped", "length")
    assert code == 0
    assert len(out) < 5_000
    assert "499,999" in out
    [row] = records(ialign("sample", file, "--json", "--dropped", "length"))
    assert len(row["text"]) == 499_999
