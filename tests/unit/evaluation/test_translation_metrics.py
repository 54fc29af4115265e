"""Scores of generated translations against sacrebleu called directly, and what is beside them."""

import unicodedata

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics import translation
from ialign_ray.evaluation.metrics.bootstrap import resample_weights
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.translation import (
    corpus_draws,
    described,
    generation_draws,
    identifiable,
    notes,
    signatures,
    tokenizer_of,
)
from ialign_ray.evaluation.results.summary import summarise

WORDS = ["house", "of", "friend", "near", "river", "walk", "there", "every", "morning", "with", "our", "old", "dog"]


def corpus(rows=40, seed=0, wrong=0.3):
    rng = np.random.default_rng(seed)
    references = [" ".join(rng.choice(WORDS, rng.integers(3, 14))) + "." for _ in range(rows)]
    hypotheses = [
        " ".join(w if rng.random() > wrong else str(rng.choice(WORDS)) for w in r.split()) for r in references
    ]
    sources = [r.upper()[::-1] for r in references]
    return sources, references, hypotheses


def generation_metrics(sources, references, hypotheses, language, cut=False):
    texts = {"source": sources, "reference": references, "hypothesis": hypotheses, "cut": cut}
    rows = pd.DataFrame({"language": f"eng-{language}", **texts})
    cell = Cell(rows, np.arange(len(rows)), np.ones((len(rows), 1)))
    return {name: float(draws[0]) for name, draws in generation_draws(cell).items()}


def test_a_sample_scores_what_sacrebleu_says():
    sources, references, hypotheses = corpus()
    found = generation_metrics(sources, references, hypotheses, "jav")
    assert found["chrf"] == pytest.approx(CHRF(word_order=2).corpus_score(hypotheses, [references]).score)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [references]).score)
    assert found["chrf_copy"] == pytest.approx(CHRF(word_order=2).corpus_score(sources, [references]).score)
    assert found["bleu_copy"] == pytest.approx(sacrebleu.corpus_bleu(sources, [references]).score)
    assert found["chrf_over_copy"] == pytest.approx(found["chrf"] - found["chrf_copy"])
    assert 0 < found["bleu"] < found["chrf"] < 100


@pytest.mark.parametrize("scorer", [CHRF(word_order=2), BLEU(), BLEU(tokenize="char")])
def test_a_resample_scores_what_sacrebleu_says_of_its_sentences(scorer):
    _, references, hypotheses = corpus(rows=25, seed=1)
    unit = np.array([k // 2 for k in range(25)])  # two rows a sentence
    weights = resample_weights(13, 6, seed=3)
    draws = corpus_draws(scorer, weights, unit, hypotheses, [references])
    for draw in range(7):
        rows = [r for r in range(25) for _ in range(int(weights[unit[r], draw]))]
        drawn = [hypotheses[r] for r in rows], [[references[r] for r in rows]]
        assert draws[draw] == pytest.approx(scorer.corpus_score(*drawn).score)
    assert len(set(draws)) > 1


def test_targets_without_spaces_are_cut_into_characters():
    assert [tokenizer_of(c) for c in ("jav", "tha", "khm", "zho", "zho_Hant", "eng")] == [
        "13a",
        "char",
        "char",
        "zh",
        "zh",
        "13a",
    ]
    references = ["เขาพูดว่าผมอยู่บ้าน", "เขาไม่ได้พูดสักคำเดียว"]
    hypotheses = ["เขาพูดว่าผมอยู่ที่บ้าน", "เขาไม่ได้พูดอะไร"]
    found = generation_metrics(["a", "b"], references, hypotheses, "tha")
    expected = BLEU(tokenize="char").corpus_score(hypotheses, [references]).score
    assert found["bleu"] == pytest.approx(expected)
    assert expected > BLEU(tokenize="13a").corpus_score(hypotheses, [references]).score
    assert "tok:char" in signatures("tha")["bleu"]
    assert "nw:2" in signatures("tha")["chrf"]


def test_copies_empty_and_cut_outputs_are_counted():
    sources = ["One two three.", "Four five.", "Six seven.", "Eight"]
    found = generation_metrics(
        sources, ["x y", "z", "w", "v"], ["  one two  THREE.", "", "Sieben", " "], "jav", [False, True, False, False]
    )
    assert (found["copied"], found["empty"], found["cut"]) == (0.25, 0.5, 0.25)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ben", "আমাদের বা\u09dcি ব\u09dc এবং গা\u09dcি নতুন হ\u09dfেছে"),
        ("yor", unicodedata.normalize("NFD", "ẹ̀kọ́ gbọ́ dára púpọ̀ fún àwọn ọmọdé")),
        ("kor", unicodedata.normalize("NFD", "오늘은 날씨가 아주 좋습니다")),
    ],
)
def test_how_a_letter_is_encoded_costs_nothing(language, text):
    composed = unicodedata.normalize("NFC", text)
    assert composed != text
    for one, two in ((text, composed), (composed, text)):
        found = generation_metrics(["x"], [one], [two], language)
        assert (round(found["chrf"], 6), round(found["bleu"], 6)) == (100, 100)
        assert generation_metrics([one], [one], [two], language)["copied"] == 1


def test_nothing_but_empty_outputs_score_zero():
    found = generation_metrics(["a b", "c"], ["d e", "f"], ["", ""], "jav")
    assert (found["chrf"], found["bleu"], found["empty"]) == (0.0, 0.0, 1.0)


ENGLISH = [f"The farmer walks slowly to the market with {n} baskets of fresh fruit." for n in range(30)]
INDONESIAN = [f"Petani itu berjalan kaki ke pasar sambil membawa {n} keranjang buah segar." for n in range(30)]


def test_output_in_another_language_is_counted_where_the_target_is_known():
    mixed = INDONESIAN[:20] + ENGLISH[20:]
    found = generation_metrics(ENGLISH, INDONESIAN, mixed, "ind")
    assert found["off_target"] == pytest.approx(1 / 3)
    assert found["off_target_reference"] == 0.0
    found = generation_metrics(INDONESIAN, ENGLISH, INDONESIAN, "eng")
    assert found["off_target"] == 1.0
    assert found["copied"] == 1.0


def test_short_outputs_are_not_judged():
    outputs = ["ya", *ENGLISH[1:10], *INDONESIAN[10:]]
    assert generation_metrics(ENGLISH, INDONESIAN, outputs, "ind")["off_target"] == pytest.approx(9 / 29)


def test_a_language_that_the_identifier_does_not_know_has_no_rate_but_a_sentence():
    assert "off_target" not in generation_metrics(ENGLISH, INDONESIAN, INDONESIAN, "bug")
    assert any("into bug: not identifiable" in note for note in notes("bug", INDONESIAN))
    # Indonesian under the name of Minangkabau, which belongs to the same macro-language
    assert not identifiable("min", INDONESIAN)
    assert identifiable("ind", INDONESIAN)
    assert not identifiable("ind", INDONESIAN[:10])


def test_spbleu_is_scored_where_its_tokenizer_is_and_missed_in_words_where_not(tmp_path, monkeypatch):
    import sentencepiece
    from sacrebleu.tokenizers import tokenizer_spm

    sources, references, hypotheses = corpus()
    place = tmp_path / "models" / "flores200sacrebleuspm"
    monkeypatch.setattr(translation, "_SPM", place)
    assert "spbleu" not in generation_metrics(sources, references, hypotheses, "jav")
    assert any("spBLEU is left out" in note for note in notes("jav", references))
    place.parent.mkdir()
    (tmp_path / "text").write_text("\n".join(references * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "spm"), vocab_size=35, minloglevel=2
    )
    (tmp_path / "spm.model").rename(place)
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    found = generation_metrics(sources, references, hypotheses, "jav")
    expected = BLEU(tokenize="flores200").corpus_score(hypotheses, [references]).score
    assert found["spbleu"] == pytest.approx(expected)
    assert found["spbleu"] != pytest.approx(found["bleu"])
    assert not any("spBLEU" in note for note in notes("jav", references))


def test_signatures_and_what_is_missing_are_said_once():
    frame = pd.DataFrame(
        {"language": ["eng-ind"] * 30 + ["eng-bug"] * 30 + ["ind-eng"] * 30 + ["eng-tha"] * 30,
         "reference": INDONESIAN + INDONESIAN + ENGLISH + ["เขาพูดว่าผมอยู่บ้าน"] * 30}
    )  # fmt: skip
    said = described(frame)
    assert sum(line.startswith("chrf nrefs:1") for line in said) == 1
    assert next(line for line in said if "tok:char" in line).endswith("(into tha).")
    assert next(line for line in said if "tok:13a" in line).endswith("(into bug, eng, ind).")
    assert sum("into bug: not identifiable" in line for line in said) == 1
    assert not any("into ind: not" in line or "into eng: not" in line for line in said)
    assert sum("spBLEU" in line for line in said) == 1


def test_a_missing_hypothesis_is_refused():
    with pytest.raises(DataError, match="row 1 has no hypothesis"):
        generation_metrics(["a", "b"], ["b", "c"], ["d", None], "jav")


def test_the_results_of_a_run_are_what_sacrebleu_says_of_its_predictions():
    rows = []
    for number, target in enumerate(("jav", "sun")):
        for k, (source, reference, hypothesis) in enumerate(zip(*corpus(rows=20, seed=number, wrong=0.2 + number / 5))):
            about = {"suite": "t", "prompt": "plain", "language": f"ind-{target}", "id": str(k), "nats": 9.0}
            made = {"source": source, "reference": reference, "hypothesis": hypothesis, "cut": False}
            rows.append(about | made | {"tokens": 5, "bytes": len(reference)})
    frame = pd.DataFrame(rows)
    found = summarise({"run": frame}, {"ind": "L1", "jav": "L2", "sun": "L2"}, resamples=100)
    value = found[found["prompt"] == "all"].set_index(["scope", "metric"])["value"]
    said = {}
    for language, part in frame.groupby("language"):
        texts = part["hypothesis"].tolist(), [part["reference"].tolist()]
        said[language] = CHRF(word_order=2).corpus_score(*texts).score, BLEU().corpus_score(*texts).score
        assert (value[f"language:{language}", "chrf"], value[f"language:{language}", "bleu"]) == pytest.approx(
            said[language]
        )
    assert (value["group:L2", "chrf"], value["group:L2", "bleu"]) == pytest.approx(np.mean([*said.values()], axis=0))
