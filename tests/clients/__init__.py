"""Real programs and libraries that take a ThreadPoolExecutor, given ours instead."""
