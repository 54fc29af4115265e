import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.identity import rng
from ialign_ray.languages import display_name
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.render import draw_task, render
from ialign_ray.tasks.templating import load_templates

ROOT = Path(__file__).resolve().parents[3]
FLORES = ROOT.parent / "shared" / "data" / "flores200" / "flores200.parquet"
SETS = [load_templates("eng"), load_templates("ind")]
SENTENCES = {
    "eng": {f"c:{k}": f"In {1990 + k} the cat number {k} slept on mat {k * 7}." for k in range(30)},
    "jav": {f"c:{k}": f"Ing {1990 + k} kucing nomer {k} turu ing klasa {k * 7}." for k in range(30)},
}
NEGATIVES = Negatives(SENTENCES)


def pair(k=3, a="eng", b="jav"):
    return Pair(f"c:{k}:{a}-{b}", a, b, SENTENCES[a][f"c:{k}"], SENTENCES[b][f"c:{k}"])


def make(task, p, *key, sets=SETS, negatives=NEGATIVES):
    return render(task, p, rng=rng(*key), templates=sets, names=display_name, negatives=negatives)


def texts(example):
    return [example.prompt[a:b] for a, b in example.spans]


def test_mt_goes_from_source_to_target():
    for k in range(40):
        example = make("mt", pair(), k)
        assert (example.task, example.target, texts(example)) == ("mt", pair().target, [pair().source])
        assert re.fullmatch(r"(eng|ind)/mt-[1-6]", example.template)


def test_mlm_restores_its_source():
    for k in range(40):
        example = make("mlm", pair(), k)
        [noised] = texts(example)
        assert example.target == pair().source
        assert noised.split() != pair().source.split()
        assert "Javanese" not in example.prompt
        assert "Jawa" not in example.prompt


def test_tlm_names_the_language_of_the_noisy_text():
    """Defect 1 of the reference: there, the other language is named."""
    [english] = [s for s in SETS if s.name == "eng"]
    seen = set()
    for a, b in (("eng", "jav"), ("jav", "eng")):
        noisy_name, clean_name = display_name(a), display_name(b)
        for k in range(80):
            example = make("tlm", pair(3, a, b), k, sets=[english])
            clean = pair(3, a, b).target
            assert example.target == pair(3, a, b).source
            assert clean in texts(example)
            [noised] = [t for t in texts(example) if t != clean]
            shape = example.prompt.replace(noised, "[NOISY]").replace(clean, "[CLEAN]")
            expected = {
                "eng/tlm-1": f"This {noisy_name} sentence is damaged: [NOISY]\nIn {clean_name} it reads: [CLEAN]",
                "eng/tlm-2": f"{clean_name}: [CLEAN]\nDamaged {noisy_name}: [NOISY]\nComplete {noisy_name}:",
                "eng/tlm-3": f"Use the {clean_name} translation to repair the {noisy_name} text.",
                "eng/tlm-4": f"Repair the {noisy_name} sentence",
            }
            assert shape.startswith(expected.get(example.template, ""))
            seen.add(example.template)
    assert len(seen) == 6


def test_one_word_falls_back_to_translation():
    short = Pair("c:1:eng-jav", "eng", "jav", "Cat", "Kucing")
    for task in ("mlm", "tlm"):
        for k in range(20):
            example = make(task, short, k)
            assert (example.task, example.target, texts(example)) == ("mt", "Kucing", ["Cat"])


def test_xss_is_half_and_half_and_right():
    n, yes = 2_000, 0
    known = {text: i for by_id in SENTENCES.values() for i, text in by_id.items()}
    for k in range(n):
        example = make("xss", pair(k % 30), "half", k)
        assert set(texts(example)) & {pair(k % 30).source}
        [other] = set(texts(example)) - {pair(k % 30).source}
        match = known.get(other) == f"c:{k % 30}"
        assert example.target in (("Yes", "Ya") if match else ("No", "Tidak"))
        yes += match
    assert yes / n == pytest.approx(0.5, abs=0.045)


def test_negatives_are_never_a_translation():
    doubled = {
        "eng": {"a:1": "One cat.", "b:1": "One  CAT.", "b:2": "One dog.", "b:3": "Two dogs."},
        "jav": {"a:1": "Kucing siji.", "b:1": "Siji kucinge.", "b:2": "Kucing siji.", "b:3": "Asu loro."},
    }
    index = Negatives(doubled)
    p = Pair("a:1:eng-jav", "eng", "jav", doubled["eng"]["a:1"], doubled["jav"]["a:1"])
    # b:1 says the same in English, b:2 in Javanese: only b:3 is a mismatch
    assert {index.draw(p, rng(k)) for k in range(100)} == {"Asu loro."}
    lonely = Negatives({"eng": {"a:1": "One cat."}, "jav": {"a:1": "Kucing siji."}})
    assert lonely.draw(p, rng(1)) is None
    assert Negatives({}).draw(p, rng(1)) is None
    for k in range(300):
        assert NEGATIVES.draw(pair(k % 30), rng(k)) != pair(k % 30).target


def test_a_pair_without_mismatch_never_says_no():
    lonely = Negatives({"jav": {"c:3": pair().target}})
    for k in range(40):
        example = make("xss", pair(), k, negatives=lonely)
        assert example.task == "mt" or example.target in ("Yes", "Ya")


@pytest.mark.parametrize("task", ["mlm", "tlm", "mt", "xss"])
@given(key=st.integers(0, 1_000_000), injected=st.sampled_from(["{source}", "{target_language}", "{context} {second}"]))
def test_sentences_with_slots_stay_as_they_are(task, key, injected):
    """Defect 8 of the reference: repeated replacement corrupts such prompts."""
    p = replace(pair(), source=f"{injected} a b c {injected}", target=f"x {injected}")
    example = make(task, p, key)
    plain = next(t for s in SETS for t in s.tasks[task] if f"{s.name}/{t.id}" == example.template).input
    outside, at = "", 0
    for a, b in example.spans:
        outside += example.prompt[at:a]
        at = b
    outside += example.prompt[at:]
    words = re.sub(r"\{\w+\}", "", plain)
    assert "{" not in outside
    assert len(outside) >= len(words)
    if task in ("mt", "xss"):
        assert p.source in texts(example)
    if task == "tlm":
        assert p.target in texts(example)


def test_tasks_are_drawn_by_weight():
    random = rng("tasks")
    drawn = [draw_task({"mt": 0.75, "xss": 0.25, "mlm": 0.0}, random) for _ in range(8_000)]
    assert drawn.count("mt") / 8_000 == pytest.approx(0.75, abs=0.02)
    assert "mlm" not in drawn


SCRIPT = """
import json, sys
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
from test_render import make, pair
print(json.dumps([asdict(make(t, pair(k), 7, 0, k)) for t in ("mlm", "tlm", "mt", "xss") for k in range(25)]))
"""


def test_an_example_is_a_function_of_its_key_alone():
    def here():
        return [asdict(make(t, pair(k), 7, 0, k)) for t in ("mlm", "tlm", "mt", "xss") for k in range(25)]

    first = json.loads(json.dumps(here()))
    make("xss", pair(), "something else between")
    assert json.loads(json.dumps(here())) == first
    for seed in ("1", "4242"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(run.stdout) == first
