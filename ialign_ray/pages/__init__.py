"""The look that all pages share: one stylesheet, and templates that escape whatever comes from data."""

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
