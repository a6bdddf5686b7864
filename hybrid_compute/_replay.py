"""The command `hybrid-compute replay`: what another policy or fleet would have made of a log.

Owns its options, its words and its looks; the simulation is in `simulate`. Threads: none.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from hybrid_compute._config_option import with_config
from hybrid_compute.abc import Policy
from hybrid_compute.errors import ConfigurationError, DecisionLogError, PolicyError
from hybrid_compute.policy import Adaptive, Prefer
from hybrid_compute.router import as_policy
from hybrid_compute.simulate import (
    Arrivals,
    ExecutorRecord,
    Log,
    Report,
    SimulatedExecutor,
    change_fleet,
    read_log,
    report_of_log,
    simulate,
)

__all__ = ["replay"]

_LOGGED = "logged"


_PRICE = "NAME=CALL[,SECOND[,MEGABYTE]]"
_REMOTE = "NAME=RTT_MS[,WORKERS[,MB_PER_S]]"


def _numbers(value: str, form: str) -> tuple[str, tuple[float, ...]]:
    name, equals, rest = value.partition("=")
    try:
        numbers = tuple(float(each) for each in rest.split(","))
    except ValueError:
        numbers = ()
    usable = all(math.isfinite(each) and each >= 0 for each in numbers)
    if not (name and equals and numbers and usable and len(numbers) <= 3):
        raise click.BadParameter(f"{value!r} is not {form}, with numbers of at least 0")
    return name, numbers


def _price(value: str) -> tuple[str, tuple[float, ...]]:
    return _numbers(value, _PRICE)


def _remote(value: str) -> tuple[str, ExecutorRecord]:
    name, (rtt, *more) = _numbers(value, _REMOTE)
    workers = more[0] if more else 8.0  # as RemoteExecutor's
    if workers < 1 or workers != int(workers):
        raise click.BadParameter(f"{value!r}: WORKERS is a whole number of at least 1")
    if more[1:] == [0.0]:
        raise click.BadParameter(f"{value!r}: MB_PER_S is a number greater than 0")
    return name, ExecutorRecord(
        workers=int(workers),
        isolates=True,
        remote=True,
        rtt=rtt / 1000,
        bandwidth=more[1] * 1e6 if more[1:] else None,
    )


@click.command()
@click.argument("path", metavar="LOG", type=click.Path(path_type=Path))
@with_config("replay", {"path": "log"})
@click.option(
    "--policy",
    "policy_name",
    default=_LOGGED,
    show_default=True,
    help="Where items go: 'logged' leaves each where it was; names of executors, the best first, "
    "as in process,thread; a policy's name, as adaptive; or MODULE:ATTR, an object of your own.",
)
@click.option("--cores", type=click.IntRange(min=1), help="Cores of this machine.")
@click.option("--processes", type=click.IntRange(min=1), help="Workers of 'process'.")
@click.option("--threads", type=click.IntRange(min=1), help="Workers of 'thread'.")
@click.option(
    "--remote",
    "remotes",
    type=_remote,
    metavar=_REMOTE,
    multiple=True,
    help="Add a service: its round trip, its workers (8), its bandwidth (any).",
)
@click.option(
    "--price",
    "prices",
    type=_price,
    metavar=_PRICE,
    multiple=True,
    help="What an executor takes for a call, a second of a worker, a megabyte.",
)
@click.option(
    "--arrivals",
    type=click.Choice(["paced", "logged"]),
    default="paced",
    show_default=True,
    help="Submit items at the logged pace, less the time of work that ran inline; or at the "
    "logged times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(  # noqa: PLR0913, PLR0917 - click passes them by keyword
    path: Path,
    policy_name: str,
    cores: int | None,
    processes: int | None,
    threads: int | None,
    remotes: tuple[tuple[str, ExecutorRecord], ...],
    prices: tuple[tuple[str, tuple[float, ...]], ...],
    arrivals: Arrivals,
    as_json: bool,
) -> None:
    """Predict what a logged run would have taken with another policy or fleet.

    LOG is what hybrid_compute.decision_log.DecisionLog wrote. Nothing of it is run: a simulation
    lets its items arrive as they did, and work for as long as they did.
    """
    try:
        log = read_log(path)
    except (OSError, DecisionLogError) as error:
        raise click.ClickException(str(error)) from error
    fleet = change_fleet(log.header.fleet, remotes=dict(remotes))
    for option, name, count in (
        ("--processes", "process", processes),
        ("--threads", "thread", threads),
    ):
        if count is not None:
            fleet = _changed(option, fleet, workers={name: count})
    for name, price in prices:
        fleet = _changed("--price", fleet, prices={name: price})
    policy = _policy(policy_name, fleet, cores or log.header.cores)
    try:
        predicted = simulate(log, policy=policy, fleet=fleet, cores=cores, arrivals=arrivals)
    except (ConfigurationError, PolicyError) as error:
        raise click.ClickException(str(error)) from error
    # The logged run had the workers that it had, but at these prices.
    prices_now = {
        name: (each.per_call, each.per_second, each.per_megabyte)
        for name, each in fleet.items()
        if name in log.header.fleet
    }
    logged = report_of_log(log, change_fleet(log.header.fleet, prices=prices_now))
    if as_json:
        data = {"logged": logged.as_data(), "predicted": predicted.as_data()}
        click.echo(json.dumps(data, indent=2))
        return
    _print(log, logged, predicted, policy_name if policy is None else repr(policy))


def _changed(
    option: str,
    fleet: Mapping[str, ExecutorRecord],
    *,
    workers: Mapping[str, int] | None = None,
    prices: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[str, ExecutorRecord]:
    try:
        return change_fleet(fleet, workers=workers, prices=prices)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), param_hint=f"'{option}'") from error


def _policy(name: str, fleet: Mapping[str, ExecutorRecord], cores: int) -> Policy | None:
    hint = "'--policy'"
    if name == _LOGGED:
        return None
    if name == "adaptive":
        return Adaptive(cores=cores)  # those of the other machine
    if all(each in fleet for each in name.split(",")):
        return Prefer(*name.split(","))
    given: object = name
    if ":" in name:
        module, _, attribute = name.partition(":")
        sys.path.insert(0, "")
        try:
            given = getattr(importlib.import_module(module), attribute)
            given = given() if isinstance(given, type) else given
        except Exception as error:  # whatever somebody's module raises
            raise click.BadParameter(
                f"{name!r} cannot be loaded: {type(error).__name__}: {error}", param_hint=hint
            ) from error
    simulated = {each: SimulatedExecutor(each, record) for each, record in fleet.items()}
    try:
        return as_policy(given, simulated)  # type: ignore[arg-type]  # it checks what it is
    except ConfigurationError as error:
        raise click.BadParameter(
            f"{error}; or names of executors ({', '.join(fleet)}), or 'logged'", param_hint=hint
        ) from error


# What it looks like.


def _print(log: Log, logged: Report, predicted: Report, policy: str) -> None:
    left_out = len(log.items) - logged.items
    click.echo(
        f"{_many(logged.items, 'item')} of {_many(len(logged.tasks), 'task')}"
        + (f" ({left_out:,} more never started, and are left out)" if left_out else "")
        + f"; policy: {policy}\n"
    )
    if predicted.refused:
        click.echo(f"{_many(predicted.refused, 'item')} could run nowhere under this policy.\n")
    # Not narrower than the tables: a terminal that is may wrap the lines, cut figures mislead.
    console = Console(width=max(100, Console().width))
    for table in (_totals, _executors, _tasks):
        console.print(table(logged, predicted))
        click.echo()


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for each in others:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _totals(logged: Report, predicted: Report) -> Table:
    table = _table("", "logged", "predicted")
    pair = (logged, predicted)
    table.add_row("complete after", *(_seconds(each.makespan) for each in pair))
    table.add_row("cost", *(f"{each.cost:,.6g}" for each in pair))
    table.add_row("wait, half of the items", *(_seconds(each.wait_p50) for each in pair))
    table.add_row("wait, 99 of 100 items", *(_seconds(each.wait_p99) for each in pair))
    return table


def _executors(logged: Report, predicted: Report) -> Table:
    table = _table(
        "executor",
        *("workers\nlogged", "\npredicted", "items\nlogged", "\npredicted"),
        *("busy\nlogged", "\npredicted", "cost\nlogged", "\npredicted"),
    )
    for name, after in predicted.executors.items():
        before = logged.executors.get(name)
        pair = (before, after)
        used = [each if each is not None and each.items else None for each in pair]
        table.add_row(
            name,
            *("" if each is None else f"{each.workers:,}" for each in pair),
            *("" if each is None else f"{each.items:,}" for each in used),
            *("" if each is None else f"{each.utilisation:.0%}" for each in used),
            *("" if each is None else f"{each.cost:,.6g}" for each in used),
        )
    return table


def _tasks(logged: Report, predicted: Report) -> Table:
    table = _table("task", "items")
    table.add_column("logged at", no_wrap=True)
    table.add_column("predicted at", no_wrap=True)
    for name, before in logged.tasks.items():
        table.add_row(
            name,
            f"{sum(before.values()):,}",
            _where(before),
            _where(predicted.tasks.get(name, {})),
        )
    return table


def _where(counts: Mapping[str, int]) -> str:
    parts = sorted(counts.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {count:,}" for name, count in parts) or "nowhere"


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(value: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1:
            return f"{value * factor:,.3g} {unit}" if value < 100 else f"{value:,.0f} s"
    return "0"
