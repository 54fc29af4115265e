"""The look that all pages share: base template, stylesheet, tables and charts. Templates escape data."""

from collections.abc import Iterable, Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from ialign_ray.pages.charts import draw_script
from ialign_ray.pages.finder import finder_script
from ialign_ray.pages.html_table import STEPS, html_table


def themed(package: str) -> Environment:
    """Templates of a package, which may extend `base.html.j2`; all values are escaped, unknown names are errors."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("ialign_ray.pages", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": lambda n: f"{n:,}", "table": html_table}
    environment.globals |= {"steps": STEPS, "draw_script": draw_script, "finder_script": finder_script}
    return environment


def stylesheet() -> str:
    """CSS of the shared look, for a page that links to it."""
    return themed("ialign_ray.pages").get_template("theme.css").render()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Markdown lines of a table; columns after the first `texts` hold numbers, which are set to the right."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    cells = ([cell.replace("|", "\\|") for cell in line] for line in (header, rule, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
