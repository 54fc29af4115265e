"""The look that all pages share: one stylesheet, templates that escape whatever comes from data, Markdown tables."""

from collections.abc import Iterable, Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def themed(package: str) -> Environment:
    """Templates of a package, which may include `theme.css`; all values are escaped, unknown names are errors."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("ialign_ray.pages", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda n: f"{n:,}"
    return environment


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Markdown lines of a table; columns after the first `texts` hold numbers, which are set to the right."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    cells = ([cell.replace("|", "\\|") for cell in line] for line in (header, rule, *rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
