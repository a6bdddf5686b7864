"""Tasks to serve: hybrid-compute serve examples.tasks:TASKS."""

from hybrid_compute import task


@task
def echo(value: object = None) -> object:
    """Return what came."""
    return value


@task
def collatz(start: int) -> int:
    """Return how many steps it takes from `start` to reach 1."""
    if start < 1:
        raise ValueError(f"start={start} is not greater than 0")
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
    return steps


TASKS = [echo, collatz]
