"""What type checkers refuse: each line with `# refused` at its end, and no other. Never run."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid_compute import (
    HybridExecutor,
    HybridFuture,
    TaskOptions,
    TaskRegistry,
    remote_task,
    task,
)


def plain(text: str, times: int = 1) -> int:
    return len(text) * times


@task
def declared(text: str, times: int = 1) -> int:
    return len(text) * times


@task
def words(text: str) -> Iterator[str]:
    yield text


class Model:
    @task
    def score(self, row: str) -> float:
        return len(row)


def wrong_arguments(ex: HybridExecutor, model: Model) -> None:
    ex.submit(plain, 1)  # refused
    ex.submit(plain)  # refused
    ex.submit(plain, "a", "b")  # refused
    ex.submit(plain, "a", twice=2)  # refused
    ex.submit(declared, 1)  # refused
    ex.submit(declared, "a", times="2")  # refused
    ex.submit(words, 1)  # refused
    ex.submit(words)  # refused
    ex.submit(model.score)  # refused
    ex.submit(model.score, 1)  # refused
    ex.submit("no function")  # refused
    ex.stream(words, 1)  # refused
    ex.stream(plain, "a")  # refused
    ex.options(retries=1).submit(declared, 1)  # refused
    ex.options(retries=1).stream(words, 1)  # refused
    declared(1)  # refused
    model.score(1)  # refused


def wrong_input_of_map(ex: HybridExecutor) -> None:
    ex.map(plain, [1])  # refused
    ex.map(declared, ["a"], ["b"])  # refused
    ex.map(declared, ["a"], [1], [2])  # refused
    ex.map(declared, 1)  # refused
    ex.map(declared, ["a"], chunks=2)  # refused
    ex.map(declared, ["a"], timeout="2")  # refused
    ex.options(retries=1).map(declared, [1])  # refused


def wrong_results(ex: HybridExecutor) -> None:
    text: str = ex.submit(declared, "a").result()  # refused
    future: HybridFuture[str] = ex.submit(plain, "a")  # refused
    numbers: list[str] = list(ex.map(declared, ["a"]))  # refused
    number: int = next(ex.stream(words, "a"))  # refused
    for _ in ex.submit(declared, "a"):  # refused
        pass
    print(text, future, numbers, number)


def wrong_options(ex: HybridExecutor, registry: TaskRegistry) -> None:
    ex.options(retry=2)  # refused
    ex.options(timeout="1")  # refused
    ex.options(executor="process").options(retry=2)  # refused
    ex.options(executor="process").options(key=1)  # refused
    task(plain, idempotent=True)  # refused
    task(idempotent="yes")  # refused
    task("name")  # refused
    registry.task(local=True)  # refused
    registry.add(plain)  # refused
    remote_task(plain)  # refused
    remote_task("name", retry=2)  # refused
    TaskOptions(buffersize="a")  # refused
    HybridExecutor("4")  # refused
    HybridExecutor(policy=3)  # refused
