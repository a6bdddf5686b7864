"""The option --config: a file, and the environment, in the place of a command's defaults.

Owns the way from the options of a command to the keys of its table: `--max-body` is `max_body`.
What is given on the command line counts for more than the environment, and that for more than the
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import click

from hybrid_compute._config_keys import Key, Keys, checked
from hybrid_compute.config import FILE_VARIABLE, Config, read_config
from hybrid_compute.errors import ConfigurationError

__all__ = ["config_of", "with_config"]

C = TypeVar("C", bound=Callable[..., Any])

_META = "hybrid_compute.config"
_NOTHING: Mapping[str, str] = MappingProxyType({})


def with_config(table: str, arguments: Mapping[str, str] = _NOTHING) -> Callable[[C], C]:
    """Decorate a command so that it takes its options from a table of a configuration as well.

    Args:
        table: its name.
        arguments: keys by the names of those arguments that it may have too.
    """

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        try:
            config = read_config(value)
            ctx.default_map = _defaults(ctx.command, config, table, arguments)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        ctx.meta[_META] = config

    return click.option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=read,
        help=f"A TOML file with the table [{table}].  [default: that of {FILE_VARIABLE}]",
    )


def config_of(ctx: click.Context) -> Config:
    """Return what the command read."""
    found: Config = ctx.meta[_META]
    return found


def _defaults(
    command: click.Command, config: Config, table: str, arguments: Mapping[str, str]
) -> dict[str, Any]:
    params = {
        _name(each, arguments): each for each in command.params if each.expose_value and each.name
    }
    params.pop("", None)
    keys = Keys({name: Key(name, _kinds(each)) for name, each in params.items()}, open=False)
    said = config.table(table)
    found = checked(keys, said, lambda key: config.where(table, key), f"[{table}]")
    defaults = {}
    for name, value in found.items():
        param = params[name]
        try:
            param.type_cast_value(click.Context(command), value)
        except click.BadParameter as error:
            raise ConfigurationError(
                f"{config.where(table, name)} is {value!r}: {error.message}"
            ) from error
        defaults[str(param.name)] = value
    return defaults


def _name(param: click.Parameter, arguments: Mapping[str, str]) -> str:
    if isinstance(param, click.Argument):
        return arguments.get(str(param.name), "")
    return max(param.opts, key=len).lstrip("-").replace("-", "_")


def _kinds(param: click.Parameter) -> tuple[str, ...]:
    if getattr(param, "is_flag", False):
        return ("true or false",)
    if getattr(param, "multiple", False):
        return ("a list of texts",)
    if isinstance(param.type, click.types.IntParamType) or getattr(param, "count", False):
        return ("a whole number",)
    if isinstance(param.type, click.types.FloatParamType):
        return ("a number",)
    return ("a text",)
