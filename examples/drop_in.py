"""A program written for ThreadPoolExecutor; only the import was changed.

Counts lines of the Python files beside this one, as they are read. Run it: python drop_in.py
"""

from concurrent.futures import as_completed
from pathlib import Path

from hybrid_compute import HybridExecutor as ThreadPoolExecutor


def count_lines(path: Path) -> int:
    """Count the lines of a file."""
    return len(path.read_text().splitlines())


with ThreadPoolExecutor(max_workers=8, thread_name_prefix="reader") as pool:
    futures = {pool.submit(count_lines, path): path for path in Path(__file__).parent.glob("*.py")}
    for future in as_completed(futures):
        print(f"{futures[future].name}: {future.result()} lines")
