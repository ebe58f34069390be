"""The asyncio front door: the same names, awaited, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from replicator import AsyncReplicator, AsyncTenure, Committed, CommitUnknown, Position, Settings, StoreInUse
from replicator.engine import keeper
from replicator.engine.session import Session
from replicator.link import messages as link
from tests.engine.fake_worker import DEADLINE_S, FakeWorker

Main = Callable[[AsyncReplicator], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(
    request: pytest.FixtureRequest, worker: FakeWorker, make_settings: Callable[..., Settings]
) -> Iterator[Callable[[Main], None]]:
    """Run a coroutine with a started replicator."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    async def main(test: Main) -> None:
        async with AsyncReplicator(make_settings(close_timeout_s=0.1)) as replicator:
            await asyncio.wait_for(test(replicator), DEADLINE_S)

    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda test: runner.run(main(test))


async def hear(worker: FakeWorker, kind: type[Any]) -> Any:
    return (await asyncio.to_thread(worker.hear, kind))[0]


async def first_tenure(replicator: AsyncReplicator, worker: FakeWorker) -> AsyncTenure:
    await asyncio.to_thread(worker.start_tenure)
    return await anext(aiter(replicator.tenures(DEADLINE_S)))


def test_a_wait_that_was_given_up_leaves_nothing(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """However often somebody asks, on a thread or a loop; the others go on waiting."""

    async def main(replicator: AsyncReplicator) -> None:
        tenure = await first_tenure(replicator, worker)
        waiting = asyncio.ensure_future(tenure.wait_ended())
        for _ in range(20):
            assert not await tenure.wait_ended(0.001)
            assert not tenure._ended.wait(0.001)
        assert len(tenure._ended.waiters or ()) == 1
        worker.say(link.TenureEnded(1, "deposed"))
        assert await waiting

    run(main)


def test_tickets_are_awaited(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """One, many at once, and within a timeout that leaves the ticket alone."""

    async def main(replicator: AsyncReplicator) -> None:
        tenure = await first_tenure(replicator, worker)
        tickets = [tenure.submit(f"s{n}", b"") for n in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tickets[0], 0.01)
        assert not tickets[0].cancelled()
        for _ in tickets:
            worker.commit(await hear(worker, link.Submit))
        outcomes = await asyncio.gather(*tickets)
        assert [type(outcome) for outcome in outcomes] == [Committed] * 3
        await tickets[0].released
        unknown = tenure.submit("s0", b"")
        worker.say(link.TenureEnded(1, "deposed"))
        with pytest.raises(CommitUnknown, match="deposed"):
            await unknown

    run(main)


def test_an_await_that_was_given_up_leaves_nothing_on_the_ticket(
    run: Callable[[Main], None], worker: FakeWorker
) -> None:
    """However often it times out or is cancelled; who goes on waiting is told."""

    async def main(replicator: AsyncReplicator) -> None:
        tenure = await first_tenure(replicator, worker)
        ticket = tenure.submit("s", b"")
        waiting = asyncio.ensure_future(asyncio.wait_for(ticket, DEADLINE_S))
        for _ in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ticket, 0.001)
        cancelled = asyncio.ensure_future(asyncio.wait_for(ticket, DEADLINE_S))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert len(ticket._done_callbacks) == 1  # type: ignore[attr-defined]
        assert len(ticket._ended.waiters or ()) == 1
        worker.commit(await hear(worker, link.Submit))
        assert isinstance(await waiting, Committed)
        assert isinstance(await ticket, Committed)

    run(main)


def test_a_tenure_is_awaited(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """Its resumption, its end, and the next one; a loop over tenures ends in time."""

    async def main(replicator: AsyncReplicator) -> None:
        tenures = []
        await asyncio.to_thread(worker.start_tenure)
        async for tenure in replicator.tenures(0.2):
            tenures.append(tenure)
            assert tenure.active
            assert await tenure.wait_active(0)
            worker.lend(-1)
            assert not await tenure.wait_active(0.01)
            assert not await tenure.wait_ended(0.01)
            asyncio.get_running_loop().call_later(0.01, worker.lend)
            assert await tenure.wait_active(DEADLINE_S)
            worker.say(link.TenureEnded(tenure.epoch, "deposed"))
            assert await tenure.wait_ended(DEADLINE_S)
            assert not await tenure.wait_active()
            if tenure.epoch == 1:
                await asyncio.to_thread(worker.start_tenure, 2)
        assert [tenure.epoch for tenure in tenures] == [1, 2]

    run(main)


def test_who_gives_up_waiting_for_a_tenure_may_ask_again(
    run: Callable[[Main], None], worker: FakeWorker
) -> None:
    """A cancelled wait is not the end of all tenures, for which an engine would take it."""

    async def main(replicator: AsyncReplicator) -> None:
        tenures = replicator.tenures()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(tenures), 0.01)
        await asyncio.to_thread(worker.start_tenure)
        assert (await anext(tenures)).epoch == 1

    run(main)


def test_follow_status_flush_and_members(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """The other names wait as the blocking ones do."""

    async def main(replicator: AsyncReplicator) -> None:
        assert replicator.members == ("local",)
        followed = replicator.follow(DEADLINE_S)
        worker.say(link.StandbyOffered("s", Position(1, 4), b"", ("",), False), b"four")
        assert (await anext(followed)).payload == b"four"
        assert (await hear(worker, link.Follow)).on
        await followed.aclose()  # type: ignore[attr-defined]
        assert not (await hear(worker, link.Follow)).on
        asking = asyncio.ensure_future(replicator.status())
        worker.say(link.StatusReply((await hear(worker, link.AskStatus)).nonce, b'{"role": "backup"}'))
        assert await asking == {"role": "backup"}
        tenure = await first_tenure(replicator, worker)
        deleting = replicator.delete("s")
        assert not await replicator.flush(0.01)
        worker.commit(await hear(worker, link.Delete))
        assert await replicator.flush(DEADLINE_S)
        assert deleting.done()
        tenure.resign("b")
        assert (await hear(worker, link.Resign)).successor == "b"

    run(main)


def test_who_follows_again_hears_all_that_comes(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """A loop that was left ends when the event loop gets round to it, after the next one has begun: the
    worker is told of the new follower, and its wish stands."""

    async def main(replicator: AsyncReplicator) -> None:
        left = replicator.follow(DEADLINE_S)
        worker.say(link.StandbyOffered("s", Position(1, 4), b"", ("",), False), b"four")
        assert (await anext(left)).payload == b"four"
        assert (await hear(worker, link.Follow)).on
        again = replicator.follow(DEADLINE_S)
        following = asyncio.ensure_future(anext(again))
        assert (await hear(worker, link.Follow)).on
        await left.aclose()  # type: ignore[attr-defined]
        worker.say(link.StandbyOffered("s", Position(1, 5), b"", ("",), False), b"five")
        assert (await following).payload == b"five"
        assert worker.hears_nothing_but(link.Ready)
        await again.aclose()  # type: ignore[attr-defined]
        assert not (await hear(worker, link.Follow)).on

    run(main)


def test_the_loop_goes_on_while_it_closes(run: Callable[[Main], None], worker: FakeWorker) -> None:
    """Closing waits for the last commit on a thread; a loop over tenures ends with it."""

    async def main(replicator: AsyncReplicator) -> None:
        async def work() -> None:
            async for tenure in replicator.tenures():
                tenure.submit("s", b"")
                await tenure.wait_ended()

        working = asyncio.ensure_future(work())
        await asyncio.to_thread(worker.start_tenure)
        submit = await hear(worker, link.Submit)
        closing = asyncio.ensure_future(replicator.close(DEADLINE_S))
        began_at = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - began_at < 1
        assert not closing.done()
        worker.commit(submit)
        await hear(worker, link.Resign)
        worker.say(link.TenureEnded(1, "resigned"))
        await asyncio.gather(closing, working)

    run(main)


def test_it_closes_while_the_loops_own_threads_are_busy(
    run: Callable[[Main], None], worker: FakeWorker
) -> None:
    """Its thread is its own: those of the loop may be waiting for something that takes longer."""

    async def main(replicator: AsyncReplicator) -> None:
        done = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        waiting = loop.run_in_executor(None, done.wait)
        await replicator.close(DEADLINE_S)
        assert not waiting.done()
        done.set()
        await waiting

    run(main)


def test_what_keeps_the_worker_from_starting_is_raised(
    worker: FakeWorker, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `async with`, as what it is."""
    monkeypatch.setattr(keeper, "STORE_WAIT_S", 0.0)
    worker.refuses = StoreInUse("process 7 has it open")

    async def main() -> None:
        async with AsyncReplicator(make_settings()):
            pass

    with pytest.raises(StoreInUse, match="process 7"):
        asyncio.run(main())


def test_a_start_that_is_cancelled_leaves_nothing_behind(
    worker: FakeWorker, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`async with` has opened nothing then: no worker, no descriptor, no thread."""
    monkeypatch.setattr(Session, "is_started", lambda _: None)

    async def main() -> None:
        replicator = AsyncReplicator(make_settings())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(replicator.__aenter__(), 0.01)
        assert repr(replicator) == "<AsyncReplicator local closed>"
        assert replicator._session.words.fd < 0

    asyncio.run(main())
