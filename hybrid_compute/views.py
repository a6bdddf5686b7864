"""Other shapes of a HybridExecutor: with options, and as a ThreadPoolExecutor.

They own nothing but a reference to the executor, which does all the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, Unpack, overload

from hybrid_compute.errors import ConfigurationError
from hybrid_compute.futures import HybridFuture
from hybrid_compute.mapper import Mapper
from hybrid_compute.maps import MapOptions
from hybrid_compute.streams import Stream
from hybrid_compute.tasks import OptionKeywords, Task, TaskOptions

if TYPE_CHECKING:
    from hybrid_compute.hybrid import HybridExecutor

__all__ = ["ExecutorView", "ThreadPoolShape"]

P = ParamSpec("P")
T = TypeVar("T")


class ExecutorView(Mapper):
    """A HybridExecutor with options: `submit` and `map` take the same arguments.

    Immutable and thread-safe. Made by `HybridExecutor.options`, which says what is raised.
    """

    def __init__(self, executor: HybridExecutor, options: TaskOptions) -> None:
        if options.executor is not None:
            executor._router.known(options.executor)
            if options.movable is False:
                raise ConfigurationError(
                    f"executor={options.executor!r} moves the work, and movable=False forbids it; "
                    f"give one of them"
                )
        self._hybrid = executor
        self._options = options

    @overload  # of what never returns, or may return anything, a checker takes the first
    def submit(
        self, fn: Task[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[Any]: ...
    @overload
    def submit(
        self,
        fn: Task[P, Iterator[T] | AsyncIterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> HybridFuture[Stream[T]]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> HybridFuture[Any]:
        """Schedule `fn(*args, **kwargs)`, as `HybridExecutor.submit` does. Does not block."""
        return self._hybrid._submit(self._options, fn, args, kwargs)

    def stream(
        self, fn: Callable[P, Iterable[T] | AsyncIterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Stream the items of `fn`, as `HybridExecutor.stream` does. Does not block."""
        return self._hybrid._stream(self._options, fn, args, kwargs)

    def _map_as_said(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[Any]:
        return self._hybrid._map(self._options, fn, iterables, options)

    def options(self, **options: Unpack[OptionKeywords]) -> ExecutorView:
        """Return a view with these options too; the newer word counts."""
        return ExecutorView(self._hybrid, TaskOptions(**options).over(self._options))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the whole executor down."""
        self._hybrid.shutdown(wait=wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        said = {k: v for k, v in self._options._fields().items() if v is not None}
        return f"<{self._hybrid!r} with {said}>"


class ThreadPoolShape(ThreadPoolExecutor):
    """A ThreadPoolExecutor by class, which starts no thread of its own."""

    def __init__(self, executor: HybridExecutor) -> None:
        super().__init__(executor._max_workers)
        self._hybrid = executor

    @overload  # of what never returns, or may return anything, a checker takes the first
    def submit(
        self, fn: Task[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[Any]: ...
    @overload
    def submit(
        self,
        fn: Task[P, Iterator[T] | AsyncIterator[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> HybridFuture[Stream[T]]: ...
    @overload
    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> HybridFuture[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> HybridFuture[Any]:
        """Submit to the executor behind."""
        return self._hybrid.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **options: Any
    ) -> Iterator[Any]:
        """Map on the executor behind."""
        return self._hybrid.map(fn, *iterables, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the executor behind down."""
        self._hybrid.shutdown(wait=wait, cancel_futures=cancel_futures)
