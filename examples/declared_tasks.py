"""A pure-Python function, declared as a task, beside plain calls that stay on threads.

Run it: python declared_tasks.py. It needs no main guard. The first calls run on threads of this
process, where they are measured; as there are many more to come, the rest goes to processes.
"""

import os
from collections import Counter

from hybrid_compute import HybridExecutor, task


@task
def collatz(start: int) -> tuple[int, int]:
    """Return how many steps it takes to reach 1, and the process that counted them."""
    steps, n = 0, start
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps, os.getpid()


with HybridExecutor() as ex:
    here = ex.submit(os.getpid).result()
    results = list(ex.map(collatz, range(1, 20_000)))
    belief = ex.explain(collatz)

longest = max(range(len(results)), key=lambda i: results[i][0])
print(f"below 20000, {longest + 1} takes the most steps: {results[longest][0]}")
counts = Counter("this process" if pid == here else "worker processes" for _, pid in results)
for place, count in counts.most_common():
    print(f"{count} calls ran in {place}")
print(belief)
