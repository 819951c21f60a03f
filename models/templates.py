"""Templates of what people read; they lie beside this file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(name: str, filters: Mapping[str, Callable[..., str]], *, is_html: bool) -> Template:
    """A compiled template; in HTML, what is filled in is escaped. A name that it is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not is_html,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= filters
    return environment.get_template(name)
