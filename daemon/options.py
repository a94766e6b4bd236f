"""A dataclass of options becomes a typer command, so that options are written once and commands take one argument."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def as_command(options: type[T], call: Callable[[T], None]) -> Callable[..., None]:
    """A function whose parameters are the fields of `options`, for typer to read; it passes them on as one object.

    Args:
        options: a dataclass whose fields are annotated with `typer.Option` or `typer.Argument`.
        call: what the command does; its docstring is the help text.
    """

    def command(**given: Any) -> None:
        call(options(**given))

    hints = get_type_hints(options, include_extras=True)
    parameters = [
        Parameter(
            f.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if f.default is MISSING else f.default,
            annotation=hints[f.name],
        )
        for f in fields(options)  # type: ignore[arg-type]
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints
    command.__doc__ = call.__doc__
    return command
