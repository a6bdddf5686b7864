"""What a client's frames consist of."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from hybrid_compute.transports import _frames
from hybrid_compute.transports._frames import Masks, frame_of

if TYPE_CHECKING:
    import pytest


def test_each_mask_has_four_bytes_and_is_given_out_once() -> None:
    masks = Masks()
    given = [masks.next() for _ in range(1000)]
    assert {len(mask) for mask in given} == {4}
    assert len(set(given)) > 990  # of 2**32, by chance


def test_masks_come_from_the_system_and_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def random(size: int) -> bytes:
        asked.append(os.getrandom(size))
        return asked[-1]

    monkeypatch.setattr(_frames.os, "urandom", random)
    masks = Masks()
    given = [masks.next() for _ in range(2 * _frames._MASKS)]
    pieces = {each[at : at + 4] for each in asked for at in range(0, len(each), 4)}
    assert len(asked) == 2
    assert set(given) == pieces


def test_threads_never_get_the_same_mask() -> None:
    masks = Masks()
    kept: list[bytes] = []  # all are alive at once: two that are one object are the same mask

    def take() -> None:
        kept.extend([masks.next() for _ in range(2000)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, kept))) == len(kept) == 8000


def test_a_frame_is_masked_with_the_mask_it_gets() -> None:
    frame = frame_of(b"\0\0\0\0\0", 2, b"abcd")
    assert frame == b"\x82\x85abcdabcda"
