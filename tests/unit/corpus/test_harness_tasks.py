"""Tasks of lm-evaluation-harness without the harness, and the texts of their rows."""

import sys

import pytest

from ialign_ray.config import LmEvalSuite
from ialign_ray.corpus.harness_tasks import leaf_tasks, row_texts
from ialign_ray.errors import ConfigError


def test_without_the_harness_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'ialign_ray\[lm-eval\]'"):
        leaf_tasks(LmEvalSuite(name="x", tasks="xcopa_id"), {"ind": "L2"})


def test_texts_are_the_fields_that_resemble_text():
    docs = [
        {"id": f"q-{k}", "question": f"what is the use of thing {k}?", "label": "yes it surely is", "gold": k % 2,
         "options": [f"the first of {k} answers", f"the second of {k} answers"], "mixed": 1 if k else "one"}
        for k in range(30)
    ]  # fmt: skip
    found = row_texts(docs)
    assert set(found) == {"question", "options.0", "options.1"}
    assert found["options.1"][4] == "the second of 4 answers"
    assert row_texts(["a plain text of words", *(f"plain text of words {k}" for k in range(9))])["text"][3]
