import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from ialign_ray.terminal import BlockTable

LONG = "replay-0.25-mix-random-xss-tlm-rank-32-average-of-seeds"
UNBROKEN = "anameofmorethansixtycharactersthatoffersnoplaceatalltobreakitself"
METRICS = ["F1", "f1_weighted", "accuracy", "calibration_error", "nats_per_token", "chrF++", "BLEU", "recall@1",
           "MRR", "margin", "exact match"]  # fmt: skip
NUMBER = re.compile(r"[-+~]?\d[\d.,]*\d|\d")


def printed(table, width):
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue()


def results(names, metrics=METRICS):
    header = ["run", *(f"new L2 {metric} (nusax-senti), n=200 in 150 clusters" for metric in metrics)]
    value = 0.1
    rows = []
    for name in names:
        cells = []
        for _ in metrics:
            value += 0.013
            cells.append(f"{value:.3f} [{value - 0.11:.3f}, {value + 0.12:.3f}]")
        rows.append([name, *cells])
    return BlockTable(header, rows)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize(
    "table",
    [
        results(["base", "control", LONG, UNBROKEN]),
        results(["基线模型基线模型基线模型", "base"]),
        results([LONG], METRICS[:2]),
        BlockTable(
            ["version", "alias", "scores [95 %]", "base", "registered"],
            [["1", "champion", "mood L2 F1 0.874 [0.835, 0.912] n=120\nmood L3 F1 – [–, –] n=9", f"/models/{UNBROKEN}",
              "2026-11-30 12:59"]],
            f"the versions of {UNBROKEN}",
        ),
        BlockTable(
            ["data", *(f"step {k}" for k in range(14))],
            [["c", *(f"-{10**k:,} ~{12 * 10**k:,}" for k in range(14))], ["rows", *(f"{10**k:,}" for k in range(14))]],
            total=True,
        ),
        BlockTable(["run", "F1"], []),
    ],
    ids=["results", "wide letters", "two metrics", "versions", "counts", "empty"],
)  # fmt: skip
def test_every_number_is_whole_and_no_line_is_too_long(table, width):
    text = printed(table, width)
    assert "…" not in text
    assert [line for line in text.splitlines() if cell_len(line) > width] == []
    found = set(NUMBER.findall(text))
    expected = {number for row in table.rows for cell in row[1:] for number in NUMBER.findall(cell)}
    assert expected <= found


def test_columns_that_do_not_fit_come_below_each_with_the_runs():
    narrow, wide = (printed(results(["base", "tuned"]), width) for width in (80, 400))
    assert wide.count("base") == 1
    assert 1 < narrow.count("base") < len(METRICS)
    assert narrow.count("tuned") == narrow.count("base")


def test_a_table_that_fits_is_one_block_of_whole_cells():
    table = BlockTable(["run", "F1", "n"], [["a", "0.500 [0.400, 0.600]", "1,000"], ["b", "0.25", "7"]], "scores")
    lines = printed(table, 80).splitlines()
    assert lines[0] == "scores"
    assert lines[3].split() == ["a", "0.500", "[0.400,", "0.600]", "1,000"]
    assert lines[4].endswith("    7")  # numbers are set to the right
    assert len(lines) == 5


def test_bars_and_their_gaps_stay_as_they_are():
    assert " ▁ ▃█  ▁" in printed(BlockTable(["language", "histogram", "n"], [["eng", " ▁ ▃█  ▁", "9"]]), 60)


def test_markup_in_a_cell_is_text():
    assert "[bold]x[/bold]" in printed(BlockTable(["run", "note"], [["[red]", "[bold]x[/bold]"]]), 80)


def test_a_score_stays_beside_its_interval_where_another_block_has_room():
    score = "mood L2 f1_weighted 0.874 [0.835, 0.912] n=120"
    header = ["version", "alias", "scores", "base", "replay ratio", "registered"]
    table = BlockTable(header, [["1", "champion", score, f"/models/{UNBROKEN}", "0.5", "2026-11-30 12:59"]])
    assert score in printed(table, 80)
    assert score not in printed(table, 50)
