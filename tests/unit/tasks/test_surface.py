"""Labels of XSS cannot be guessed from the surface: pairs are matched by what two sentences share."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from ialign_ray.corpus.identity import rng
from ialign_ray.pocket.locate import pocket_file
from ialign_ray.tasks.alignment import TASKS, XSS, DrawContext
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.noise import Noise
from ialign_ray.tasks.surface import Matching, learn, likeness, surface

FLORES = Path(__file__).parents[4] / "shared" / "data" / "flores200" / "flores200.parquet"
WORDS = [f"{a}{b}{c}" for a in "ptkmn" for b in "aeiou" for c in "lrs"]


def directed(rows, old, new):
    """Pairs of both directions of rows that are dicts of language -> text."""
    for k, row in enumerate(rows):
        for a in old:
            for b in new:
                for one, two in ((a, b), (b, a)):
                    yield Pair(f"{k}:{one}-{two}", one, two, row[one], row[two])


def negatives_of(pairs):
    sentences = {}
    for pair in pairs:
        sentences.setdefault(pair.source_language, {})[pair.row_id.rpartition(":")[0]] = pair.source
    return Negatives(sentences)


def seen(first, second):
    """What a reader of the surface could use: length, numbers, punctuation, names, character trigrams, words."""
    names = [set(re.findall(r"\b[A-Z]\w*", text)) for text in (first, second)]
    numbers = [set(re.findall(r"\d+", text)) for text in (first, second)]
    grams = [{t.casefold()[k : k + 3] for k in range(len(t) - 2)} for t in (first, second)]
    words = [set(text.casefold().split()) for text in (first, second)]
    both = [(len(a & b), len(a ^ b)) for a, b in (names, numbers, grams, words)]
    marks = [sum(text.count(mark) for mark in ",.;:!?'") for text in (first, second)]
    return [len(first), len(second), len(second) / len(first), *sum(both, ()), *marks, first[-1] == second[-1]]


def auc(rows, old, new, most=4_000):
    """AUC of a classifier, by folds of whole sentences, and the share of the pairs that became XSS examples."""
    pairs = list(directed(rows, old, new))
    negatives = negatives_of(pairs)
    negatives.matching = negatives.learn_matching(pairs)
    context = DrawContext(negatives, {True: "yes", False: "no"}, Noise())
    chosen = random.Random(5).sample(pairs, min(most, len(pairs)))
    x, y, groups = [], [], []
    for pair in chosen:
        drawn = TASKS[XSS].draw(pair, rng(1, 0, pair.row_id), context)
        if drawn:
            x.append(seen(drawn.sentences["first"], drawn.sentences["second"]))
            y.append(drawn.target == "yes")
            groups.append(pair.row_id.rpartition(":")[0])
    model = GradientBoostingClassifier(n_estimators=100, subsample=0.7, random_state=0)
    scores = cross_val_predict(model, np.array(x), y, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    assert np.mean(y) == pytest.approx(0.5, abs=0.04)
    return roc_auc_score(y, scores), len(y) / len(chosen)


@pytest.mark.slow
def test_flores_gives_no_label_away():
    if not FLORES.exists():
        pytest.skip(f"{FLORES} is absent")
    table = pq.read_table(FLORES).to_pandas()
    table = table[table["split"] == "dev"].rename(columns=lambda name: name[:3] if "_" in name else name)
    found, used = auc(table.to_dict("records"), ["eng", "ind"], ["jav", "sun", "bug"])
    print(f"FLORES-200: AUC {found:.3f}, {used:.0%} of the pairs used")
    assert found <= 0.6
    assert used > 0.2


@pytest.mark.slow
def test_the_pocket_gives_no_label_away():
    rows = [r for r in pq.read_table(pocket_file("pocket:parallel")).to_pylist() if r["split"] == "train"]
    found, used = auc([r for r in rows if r["jav"] and r["sun"] and r["qci"]], ["eng", "ind"], ["jav", "sun", "qci"])
    print(f"pocket: AUC {found:.3f}, {used:.0%} of the pairs used")
    assert found <= 0.6
    assert used > 0.5


def corpus(n, shared, seed=0):
    """Rows in which a translation shares `shared` of 8 words with its source; other rows share fewer."""
    chance = random.Random(seed)
    rows = []
    for _ in range(n):
        words = chance.choices(WORDS, k=8)
        kept = chance.sample(range(8), shared)
        other = [word if k in kept else f"x{chance.choice(WORDS)}" for k, word in enumerate(words)]
        rows.append({"eng": " ".join(words), "jav": " ".join(other)})
    return rows


@pytest.fixture(scope="module")
def near():
    pairs = list(directed(corpus(200, 1), ["eng"], ["jav"]))
    negatives = negatives_of(pairs)
    return pairs, negatives, negatives.learn_matching(pairs)


def test_mismatches_are_sentences_of_the_corpus_as_they_are(near):
    pairs, negatives, _ = near
    for pair in pairs[:60]:
        drawn = negatives.draw(pair, rng("x", pair.row_id))
        assert drawn in set(negatives.sentences[pair.target_language].values()) - {pair.target}


def test_as_many_translations_as_mismatches_of_each_score_are_used(near):
    _, _, found = near
    assert set(found.directions) == {"eng>jav", "jav>eng"}
    for own in found.directions.values():
        assert own.auc > 0.55
        assert own.auc_used < own.auc
        assert 0 < own.used < 1


def test_the_matching_survives_its_file(near):
    pairs, _, found = near
    again = Matching.of(json.loads(json.dumps(found.plain())))
    assert again == found
    assert [again.share(p.direction, p.source, p.target, True) for p in pairs] == [
        found.share(p.direction, p.source, p.target, True) for p in pairs
    ]
    assert found.share("eng>sun", "a", "b", True) == 1.0


def test_a_few_pairs_are_not_matched():
    pairs = list(directed(corpus(20, 3), ["eng"], ["jav"]))
    assert negatives_of(pairs).learn_matching(pairs) is None


def test_pairs_that_nothing_is_like_are_left_out():
    sides = np.random.default_rng(0).normal(size=(2, 200, 15))
    sides[0, :, 0] += 50  # every translation is more alike than any mismatch
    [own] = learn({"eng>jav": (sides[0], sides[1])}).directions.values()
    assert own.auc > 0.99
    assert own.used < 0.02


def test_what_two_sentences_share():
    first, second = surface("In 1990, Ani had 3 cats."), surface("Ani duwe 3 kucing ing taun 1990.")
    found = likeness(first, second)
    assert found[1:4] == (3, 1, 0)
    assert likeness(first, first)[0] == 1.0
    assert all(np.isfinite(likeness(surface(a), surface(b))).all() for a in ("", "x", "。") for b in ("", "x", "。"))
