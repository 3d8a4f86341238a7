"""Pages that need no other file and no network, from the templates of this package."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **context: Any) -> str:
    """The whole of a page.

    Args:
        template: Its name.
        context: What it shows. Everything is escaped: names of models, classes and files are the user's, and whoever
            opens the page may be somebody else.
    """
    environment = Environment(
        loader=PackageLoader("softrisk_evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
