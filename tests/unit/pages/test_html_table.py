import re

from markupsafe import escape

from ialign_ray.pages import stylesheet
from ialign_ray.pages.html_table import STEPS, html_table


def rows(*lines):
    first, *others = [[str(escape(cell)) for cell in line] for line in lines]
    head = "".join(f"<th>{cell}</th>" for cell in first)
    return f"<tr>{head}</tr>" + "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in line)}</tr>" for line in others)


def kind(table):
    return re.search(r'<table class="(cards[-\d]*)"', table)[1]


def test_each_cell_carries_the_name_of_its_column_and_each_row_a_heading():
    table = html_table(rows(["run", "a<b"], ["<i>x", "1.5"], ["y", "2.5"]))
    assert '<th scope="row" data-label="run">&lt;i&gt;x</th>' in table
    assert table.count('<td data-label="a&lt;b">') == 2
    assert table.count('scope="col"') == 2
    assert "<i>x" not in table


def test_wider_tables_become_cards_at_wider_screens():
    kinds = [kind(html_table(rows([f"c{k}" for k in range(n)], ["0.123456"] * n))) for n in (2, 6, 12, 60)]
    steps = [int(k.partition("-")[2] or 10**6) for k in kinds]
    assert steps == sorted(set(steps))
    assert kinds[-1] == "cards"


def test_a_table_of_no_rows_and_of_empty_cells_is_a_table():
    assert "<tbody>\n</tbody>" in html_table(rows(["a", "b"]))
    assert '<td data-label="b"></td>' in html_table(rows(["a", "b"], ["x", ""]))


def test_names_that_may_be_broken_are_marked_and_numbers_are_not():
    table = html_table(rows(["name", "n"], ["a" * 60, "1,234,567.89 [0.001, 0.002]"]))
    assert table.count("data-long") == 1


def test_the_stylesheet_has_a_rule_for_each_step():
    css = stylesheet()
    assert "{{" not in css
    assert "{%" not in css
    assert {int(n) for n in re.findall(r"@container \(width < (\d+)rem\)", css)} == set(STEPS)
