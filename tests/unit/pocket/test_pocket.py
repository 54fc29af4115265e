"""The pocket corpora: exact translations, labels by construction, no leak and no give-away."""

import json
import re
import string
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import ialign_ray
from ialign_ray.corpus.identity import lines_of, text_key
from ialign_ray.errors import DataError
from ialign_ray.pocket.base import base_config, train_tokenizer
from ialign_ray.pocket.corpus import FILES, LABELS, LANGUAGES, SENTIMENT_PROMPTS, Sentences, write_pocket
from ialign_ray.pocket.grammar import POLARITIES, Sentence, draw_shape, fill, phrases
from ialign_ray.pocket.instructions import READ, TRANSLATION_WORDINGS
from ialign_ray.pocket.lexicon import REAL, decipher, encipher, encipher_dialect, lexicon

TEMPLATES = Path(ialign_ray.__file__).parent / "tasks" / "templates"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket") / "data"
    write_pocket(folder)
    return folder


@pytest.fixture(scope="module")
def parallel(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "parallel.parquet")


@pytest.fixture(scope="module")
def sentiment(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "sentiment.parquet")


@pytest.fixture(scope="module")
def pool(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def sample(count: int) -> list[Sentence]:
    random = Random(7)
    return [fill(shape, label, random) for shape in (draw_shape(random) for _ in range(count)) for label in POLARITIES]


def keys(table: pd.DataFrame) -> set[bytes]:
    return {text_key(text) for code in LANGUAGES for text in table[code]}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_pocket(tmp_path / "same")
    write_pocket(tmp_path / "other", seed=1)
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(DataError, match="not empty"):
        write_pocket(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("ialign_ray.pocket.corpus._write_instructions", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pocket(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_no_sentence_stands_in_two_sets_in_any_language(
    parallel: pd.DataFrame, sentiment: pd.DataFrame, pool: list[dict[str, str]]
) -> None:
    parallel = parallel[parallel["ind"].str.endswith(".")]  # words and phrases are no sentences
    parts = [t[t["split"] == split] for t in (parallel, sentiment) for split in ("train", "test")]
    sets = [keys(part) for part in parts]
    quoted = {text_key(line) for row in pool for text in (row["inputs"], row["targets"]) for line in lines_of(text)}
    for i, one in enumerate(sets):
        assert one.isdisjoint(quoted)
        assert all(one.isdisjoint(other) for other in sets[i + 1 :])


def test_no_evaluation_sentence_hides_inside_an_instruction(
    sentiment: pd.DataFrame, pool: list[dict[str, str]]
) -> None:
    texts = "\n".join(row["inputs"] + "\n" + row["targets"] for row in pool)
    # a short sentence can be the tail of a longer one; as a whole line, or with its opener, it may not occur
    lines = {part for line in texts.splitlines() for part in (line, line.partition(": ")[2])}
    assert lines.isdisjoint({t for code in ("eng", "ind") for t in sentiment[code]})


def test_sizes_splits_and_columns(parallel: pd.DataFrame, sentiment: pd.DataFrame, pool: list[dict[str, str]]) -> None:
    assert list(parallel.columns) == ["id", *LANGUAGES, "split"]
    assert list(sentiment.columns) == ["id", "split", "label", *LANGUAGES]
    assert Counter(parallel["split"]) == {"train": 1200 + len(list(phrases())), "test": 300}
    assert parallel[parallel["split"] == "test"]["ind"].str.endswith(".").all()  # phrases are trained on alone
    assert Counter(sentiment["split"]) == {"train": 400, "test": 300}
    assert 12000 <= sum(row["split"] == "train" for row in pool) <= 17000
    assert Counter(row["language"] for row in pool if row["split"] == "raw") == dict.fromkeys(READ, 700)
    assert sum(row["split"] == "heldout" for row in pool) == 400
    for ids in (parallel["id"], sentiment["id"], [row["id"] for row in pool]):
        assert len(set(ids)) == len(ids)


def test_labels_are_balanced_in_every_split(sentiment: pd.DataFrame) -> None:
    for _, part in sentiment.groupby("split"):
        counts = Counter(part["label"])
        assert set(counts) == set(POLARITIES)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_every_language_is_there_and_no_slot_is_left_open(
    parallel: pd.DataFrame, sentiment: pd.DataFrame, pool: list[dict[str, str]]
) -> None:
    for table in (parallel, sentiment):
        for code in LANGUAGES:
            texts = table[code]
            assert table is parallel or texts.str.endswith(".").all()
            assert not texts.str.contains(r"[{}]|  | ,| \.|None", regex=True).any()
    for row in pool:
        assert row["inputs"].strip()
        assert row["targets"].strip()
        assert not set("{}") & set(row["inputs"] + row["targets"])


def test_length_does_not_tell_the_label() -> None:
    sentences = Sentences(seed=7).take(9000)
    for code in set(LANGUAGES) - {"sun"}:  # no experiment judges Sundanese, whose words of praise and blame are long
        texts = [s.texts[code] for s in sentences]
        lengths = np.array([[len(t), len(t.split())] for t in texts], dtype=float)
        for one, other in (("negative", "neutral"), ("negative", "positive"), ("neutral", "positive")):
            chosen = np.array([s.label in (one, other) for s in sentences])
            truth = np.array([s.label == other for s in sentences])[chosen]
            guess = LogisticRegression().fit(lengths[chosen], truth).decision_function(lengths[chosen])
            assert roc_auc_score(truth, guess) < 0.56, (code, one, other)


def test_only_predicates_tell_the_label() -> None:
    counts: dict[str, Counter[str]] = {label: Counter() for label in POLARITIES}
    for sentence in sample(3000):
        told = {word for p in sentence.predicates for word in str(p.words["ind"]).split()}
        counts[sentence.label].update(set(sentence.texts["ind"].rstrip(".").split()) - told)
    for word in {w for c in counts.values() for w, n in c.items() if n >= 200}:
        shares = [counts[label][word] for label in POLARITIES]
        assert max(shares) < 1.25 * min(shares), word


def test_negation_flips_the_polarity_of_the_predicate() -> None:
    flipped = {"negative": "positive", "positive": "negative", "neutral": "neutral"}
    for sentence in sample(500):
        for clause, predicate in zip(sentence.shape.clauses, sentence.predicates, strict=True):
            wanted = sentence.label if clause.polar else "neutral"
            assert predicate.polarity == (flipped[wanted] if clause.negated else wanted)
        assert any(clause.polar for clause in sentence.shape.clauses)
        said = any(clause.negated for clause in sentence.shape.clauses)
        assert (" not " in sentence.texts["eng"]) == said
        assert (" tidak " in sentence.texts["ind"]) == said


def test_the_grammar_has_many_sentences() -> None:
    assert len({s.texts["eng"] for s in sample(7500)}) > 15_000


def test_the_cipher_is_bijective_and_leaves_what_is_no_letter() -> None:
    letters = string.ascii_letters
    assert sorted(encipher(letters)) == sorted(letters)
    assert all(encipher(c) != c for c in letters)
    assert encipher("12, 3.5 - (!)") == "12, 3.5 - (!)"
    text = "Kopi ini TIDAK enak, 2x mahal!"
    assert decipher(encipher(text)) == text


def test_a_dialect_is_as_far_from_the_cipher_as_it_says() -> None:
    words = sorted({w for s in sample(500) for w in re.findall(r"[a-z]+", s.texts["ind"])})
    assert encipher_dialect("rumah ini", 0) == encipher("rumah ini")
    assert encipher_dialect("Rumah ini, ya!", 1) == encipher(encipher("Rumah ini, ya!"))
    own = {d: {w for w in words if encipher_dialect(w, d) != encipher(w)} for d in (0.1, 0.25, 0.5, 0.75)}
    for distance, found in own.items():
        assert abs(len(found) / len(words) - distance) < 0.12, distance
    assert own[0.1] < own[0.25] < own[0.5] < own[0.75]


def test_requests_to_translate_are_those_of_the_alignment_tasks() -> None:
    slots = {"{source}": "{text}", "{source_language}": "{source}", "{target_language}": "{target}"}
    for language, wordings in TRANSLATION_WORDINGS.items():
        found = yaml.safe_load((TEMPLATES / f"{language}.yaml").read_text(encoding="utf-8"))["mt"]
        assert set(wordings) == {re.sub(r"{\w+}", lambda slot: slots[slot[0]], t["input"]) for t in found}


def test_the_lexicon_is_complete() -> None:
    words = lexicon()
    assert 60 <= sum(len(section) for section in words.values()) <= 120
    for section, concepts in words.items():
        for concept in concepts.values():
            languages = ("eng", "ind") if section == "topics" else REAL
            assert all(concept.words.get(code) for code in languages), (section, concept.name)


def test_every_domain_can_be_said_to_be_anything() -> None:
    words = lexicon()
    domains = {noun.domain for noun in words["nouns"].values()}
    assert domains == set(words["topics"])
    for domain in domains:
        for polarity in POLARITIES:
            fitting = [a for a in words["adjectives"].values() if a.polarity == polarity and domain in a.fits]
            assert len(fitting) >= 2, (domain, polarity)  # two clauses on one thing take two
    assert {a for c in words["adjectives"].values() for a in c.fits} <= domains


def test_one_family_of_instructions_is_never_trained(pool: list[dict[str, str]]) -> None:
    families = {s: {row["source"] for row in pool if row["split"] == s} for s in ("train", "heldout")}
    assert families["heldout"] - families["train"] == {"word-count"}
    assert {row["language"] for row in pool if row["split"] != "raw"} == {"eng", "ind"}


def test_raw_text_is_neither_an_instruction_nor_a_translation(pool: list[dict[str, str]]) -> None:
    raw = [row for row in pool if row["split"] == "raw"]
    assert {len(row["inputs"].split()) for row in raw} == {1}
    meanings = [{decipher(row["targets"]) if row["language"] == "qci" else row["targets"]} for row in raw]
    assert len(set().union(*meanings)) == len(raw)


def test_the_base_has_seen_the_prompts_of_the_suite(pool: list[dict[str, str]]) -> None:
    rows = [row for row in pool if row["source"] == "sentiment" and row["split"] == "train"]
    for code, prompt in SENTIMENT_PROMPTS.items():
        head, tail = prompt.split("{text}")
        seen = [row for row in rows if row["inputs"].startswith(head) and row["inputs"].endswith(tail)]
        assert len(seen) > 500
        assert {row["targets"] for row in seen} == set(LABELS[code].values())


def test_the_tokenizer_and_the_shape_of_the_base(pool: list[dict[str, str]], parallel: pd.DataFrame) -> None:
    tokenizer = train_tokenizer(row["inputs"] + "\n" + row["targets"] for row in pool[:2000])
    for code in LANGUAGES:
        text = parallel[code][0]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.chat_template is None
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    config = base_config(tokenizer)
    assert config.vocab_size == len(tokenizer)
    assert config.tie_word_embeddings
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
