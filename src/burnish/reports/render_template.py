"""Pages and cards from their templates."""

from collections.abc import Callable
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from burnish.errors import quantity


def render_template(package: str, name: str, *filters: Callable[..., Any], **values: Any) -> str:
    """The text of a template of a package; values in a page of HTML are escaped.

    Templates use `quantity` and `filters` by the names of the functions, without a leading _.
    """
    is_page = ".html" in name
    environment = Environment(
        # Every page has the styles of the report.
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("burnish.reports")]),
        autoescape=is_page,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not is_page,
    )
    functions = (quantity, *filters)
    environment.filters |= {function.__name__.lstrip("_"): function for function in functions}
    return environment.get_template(name).render(**values)
