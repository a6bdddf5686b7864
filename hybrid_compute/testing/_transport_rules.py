"""The rules of `transports.Transport`: frames whole and in order, and one end."""

from __future__ import annotations

import threading

from hybrid_compute.errors import HybridComputeError
from hybrid_compute.testing._checks import ContractBroken, Rule, call, left_of, rule
from hybrid_compute.testing._link import MOMENT, LinkScene, send_all

__all__ = ["TRANSPORT_RULES"]

SIZES = (1, 125, 126, 1000, 65535, 65536, 300_000)  # where framings begin to differ
FRAMES = tuple(b"%06d" % number + b"x" * size for number, size in enumerate(SIZES * 4))


@rule("frames reach the other end whole, and in their order")
def sends_whole_frames_in_order(scene: LinkScene) -> None:
    scene.open()
    scene.send(*FRAMES)
    _compare(scene, scene.receive(len(FRAMES)), "the other end got")


@rule("on_frame gets frames whole, and in their order")
def receives_whole_frames_in_order(scene: LinkScene) -> None:
    calls = scene.open()
    scene.bounded("the other end's send()", lambda: send_all(scene.link.send, FRAMES))
    calls.wait(lambda: len(calls.frames) >= len(FRAMES), scene.timeout)
    _compare(scene, calls.frames, "on_frame got")


def _compare(scene: LinkScene, found: list[bytes], who: str) -> None:
    if found != list(FRAMES):
        same = sum(a == b for a, b in zip(found, FRAMES, strict=False))
        sizes = [len(each) for each in found[:8]]
        scene.broken(
            f"of {len(FRAMES)} frames {who} {len(found)}, of which {same} were right; the first "
            f"had {sizes} bytes instead of {[len(each) for each in FRAMES[:8]]}"
        )


@rule("send() may be called by any thread")
def takes_frames_of_many_threads(scene: LinkScene) -> None:
    scene.open()
    threads = [
        threading.Thread(
            target=send_all,
            args=(
                scene.transport.send,
                [b"%d %06d " % (who, number) + b"x" * 5000 for number in range(50)],
            ),
            daemon=True,
        )
        for who in range(4)
    ]
    for each in threads:
        each.start()
    found = scene.receive(200)
    for each in threads:
        each.join(scene.timeout)
    scene.demand(len(found) == 200, f"of 200 frames {len(found)} came")
    for who in range(4):
        mine = [each for each in found if each.startswith(b"%d " % who)]
        whole = len(mine) == 50 and mine == sorted(mine) and {len(each) for each in mine} == {5009}
        scene.demand(whole, f"the frames of one of four threads came torn or in no order: {who}")


@rule("send() does not wait for the peer")
def does_not_wait_for_the_peer(scene: LinkScene) -> None:
    scene.open()
    scene.send(*[b"x" * 1_000_000] * 20)  # nobody reads, and no socket holds that much


@rule("on_frame is called with one frame at a time")
def calls_one_at_a_time(scene: LinkScene) -> None:
    def linger(_: bytes) -> None:
        # The next one, if it comes now, comes too early.
        calls.wait(lambda: calls.overlapped, MOMENT / 5)

    calls = scene.open(linger)
    for number in range(10):
        scene.link.send(b"%d" % number)
    calls.wait(lambda: len(calls.frames) == 10, scene.timeout)
    scene.demand(not calls.overlapped, "on_frame was called while another call of it ran")


@rule("on_frame and on_lost are called on a thread of the transport")
def calls_on_its_own_thread(scene: LinkScene) -> None:
    calls = scene.open()
    scene.link.send(b"frame")
    calls.wait(lambda: calls.frames, scene.timeout)
    here: list[int] = []

    def close() -> None:
        here.append(threading.get_ident())
        scene.transport.close()

    scene.bounded("close()", close)
    scene.ended()
    scene.demand(not calls.threads & set(here), "on_lost was called inside close()")


@rule("on_frame is called holding no lock")
def calls_holding_no_lock(scene: LinkScene) -> None:
    def ask(_: bytes) -> None:
        answered.append(call(lambda: scene.transport.send(b"answer"), scene.timeout)[0])
        over.set()

    answered: list[bool] = []
    over = threading.Event()
    scene.open(ask)
    scene.link.send(b"question")
    over.wait(2 * scene.timeout)
    scene.demand(answered == [True], "send() of another thread waited for on_frame")
    found = scene.receive(1)
    scene.demand(found == [b"answer"], f"the other end got {found} instead of the answer")


@rule("on_lost is called once, last, with the reason")
def tells_once_that_it_is_lost(scene: LinkScene) -> None:
    calls = scene.open()
    scene.link.send(b"last words")
    calls.wait(lambda: calls.frames, scene.timeout)
    scene.link.vanish()
    scene.ended()
    _ends_well(scene)


@rule("close() may be called again, and on_lost is called once, last, also after close()")
def tells_once_that_it_was_closed(scene: LinkScene) -> None:
    scene.open()
    for _ in range(2):
        scene.bounded("close()", scene.transport.close)
    scene.ended()
    _ends_well(scene)


@rule("close() may be called inside on_frame")
def can_be_closed_inside_on_frame(scene: LinkScene) -> None:
    calls = scene.open(lambda _: scene.transport.close())
    scene.link.send(b"go")
    calls.wait(lambda: calls.frames, scene.timeout)
    scene.ended()
    _ends_well(scene)


def _ends_well(scene: LinkScene) -> None:
    """Demand that nothing comes behind `on_lost`, whatever is done."""
    calls = scene.calls
    scene.bounded("close()", scene.transport.close)
    calls.wait(lambda: len(calls.lost) > 1, MOMENT)
    scene.demand(len(calls.lost) == 1, f"on_lost was called {len(calls.lost)} times")
    why = calls.lost[0]
    scene.demand(
        isinstance(why, Exception) and str(why), f"on_lost got {why!r}, which tells no reason"
    )
    scene.demand(not calls.late, "on_frame was called after on_lost")
    scene.demand(not calls.overlapped, "on_lost was called while on_frame ran")


@rule("a frame that is sent after the end is dropped")
def drops_what_comes_too_late(scene: LinkScene) -> None:
    scene.open()
    scene.link.vanish()
    scene.ended()
    try:
        scene.send(b"too late", b"and again")
    except ContractBroken:
        raise
    except Exception as error:
        scene.broken(f"send() raised {error!r}")


@rule("open() raises one of the library's errors if nobody is there")
def says_that_nobody_is_there(scene: LinkScene) -> None:
    scene.link.vanish()
    try:
        scene.open()
    except ContractBroken:
        raise
    except HybridComputeError:
        scene.demand(not scene.calls.lost, "on_lost was called though open() had failed")
        return
    except Exception as error:
        scene.broken(f"open() raised {error!r}")
    scene.broken("open() returned")


@rule("no thread is left at work after on_lost")
def leaves_no_thread(scene: LinkScene) -> None:
    before = set(threading.enumerate())
    scene.open()
    scene.send(b"frame")
    scene.receive(1)
    mine = set(threading.enumerate()) - before
    scene.bounded("close()", scene.transport.close)
    scene.ended()
    scene.bounded("close() of the other end", scene.link.vanish)
    left = left_of(set(threading.enumerate()) - mine, scene.timeout)
    scene.demand(not left, f"{len(left)} threads went on: {', '.join(left)}")


TRANSPORT_RULES: tuple[Rule[LinkScene], ...] = (
    sends_whole_frames_in_order,
    receives_whole_frames_in_order,
    takes_frames_of_many_threads,
    does_not_wait_for_the_peer,
    calls_one_at_a_time,
    calls_on_its_own_thread,
    calls_holding_no_lock,
    tells_once_that_it_is_lost,
    tells_once_that_it_was_closed,
    can_be_closed_inside_on_frame,
    drops_what_comes_too_late,
    says_that_nobody_is_there,
    leaves_no_thread,
)
