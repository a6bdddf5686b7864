"""Mapper: the `map` of our executors, as its callers and their type checkers see it.

Owns the signature, which is the same for all of them. How calls travel is each executor's affair.
No state, no threads, no locks.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Literal, Never, TypedDict, TypeVar, Unpack, overload

from hybrid_compute.maps import MapOptions, shortest

if TYPE_CHECKING:
    from hybrid_compute.streams import Stream
    from hybrid_compute.tasks import Task

__all__ = ["MapKeywords", "Mapper"]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


class _MostKeywords(TypedDict, total=False):
    """Those that change nothing of the results' type."""

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    ordered: bool
    progress: Any


class MapKeywords(_MostKeywords, total=False):
    """The keywords of `map`, for type checkers; `Mapper.map` says what they mean."""

    return_exceptions: bool


class Mapper(Executor):
    """An executor whose `map` checks its arguments against the function that it maps."""

    # To a checker, an Executor's map takes any function with any iterables; ours takes those that
    # go together. What runs is one function, which takes what the stdlib's takes.
    @overload  # type: ignore[override]  # to a checker ours takes less, and that is the point
    def map(  # pyright: ignore[reportIncompatibleMethodOverride]  # the same
        self,
        fn: Task[..., Never],  # which also is what may return anything
        /,
        *iterables: Iterable[Any],
        **said: Unpack[MapKeywords],
    ) -> Iterator[Any]: ...
    @overload
    def map(
        self,
        fn: Task[..., Iterator[T] | AsyncIterator[T]],
        /,
        *iterables: Iterable[Any],
        **said: Unpack[MapKeywords],
    ) -> Iterator[Stream[T]]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        return_exceptions: Literal[True],
        **said: Unpack[_MostKeywords],
    ) -> Iterator[T | BaseException]: ...
    @overload
    def map(
        self, fn: Callable[[A], T], a: Iterable[A], /, **said: Unpack[MapKeywords]
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        a: Iterable[A],
        b: Iterable[B],
        /,
        **said: Unpack[MapKeywords],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        /,
        **said: Unpack[MapKeywords],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        /,
        **said: Unpack[MapKeywords],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D, E], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        e: Iterable[E],
        /,
        **said: Unpack[MapKeywords],
    ) -> Iterator[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        a: Iterable[Any],
        b: Iterable[Any],
        c: Iterable[Any],
        d: Iterable[Any],
        e: Iterable[Any],
        f: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        **said: Unpack[MapKeywords],
    ) -> Iterator[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        progress: Any = None,
    ) -> Iterator[Any]:
        """Call `fn` on the items of the iterables, side by side, and iterate over the results.

        As in the stdlib, all input is consumed and submitted at once, `timeout` counts from
        this call, the first error is raised in its turn, and then, or when the iterator is
        closed, all that has not started is cancelled. Does not block; the iterator does, until
        the result that is due has come. It is for one thread.

        A HybridExecutor routes a declared task once for all of its calls, and sends them in chunks
        where a message is dear.

        Args:
            fn: called with one item of each iterable, until the shortest is exhausted.
            *iterables: the input.
            timeout: seconds from this call after which the iterator raises TimeoutError; None
                never does.
            chunksize: how many calls make one message, where messages are dear; None lets the
                executor find it by measuring. Ignored by threads.
            buffersize: at most so many calls are submitted and not yet yielded; the input is
                then consumed lazily. None submits all at once.
            ordered: False yields results as they finish.
            return_exceptions: True yields an exception in the place of a result instead of
                raising it.
            progress: True shows a bar (needs the extra `progress`); or any object with
                `update(n)`, which is called on the consumer's thread as results finish.

        Raises:
            ValueError: `buffersize` or `chunksize` is less than 1.
            TypeError: one of them is no whole number.
            ImportError: `progress=True`, and tqdm is not installed.
            RuntimeError: the executor is shut down.
        """
        options = MapOptions(
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            ordered=ordered,
            return_exceptions=return_exceptions,
            progress=progress,
            length=shortest(iterables),
        )
        return self._map_as_said(fn, iterables, options)

    @abc.abstractmethod
    def _map_as_said(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], options: MapOptions
    ) -> Iterator[Any]:
        """Map: the keywords have been checked."""
