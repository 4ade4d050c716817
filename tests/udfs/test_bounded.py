"""A budget never lends more than it has and never forgets a waiter; a cache never outgrows its capacity."""

import asyncio
import ctypes
import gc
import subprocess
import sys
import weakref

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from udfs.bounded import Budget, RecentlyUsed, without_frames


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10), st.booleans(), st.booleans()), max_size=30))
def test_a_budget_is_never_overdrawn_and_serves_everybody_who_stays(
    demands: list[tuple[int, bool, bool]],
) -> None:
    async def run() -> None:
        budget = Budget(10)
        held = 0
        served = 0

        async def take(count: int, urgent: bool) -> None:
            nonlocal held, served
            await budget.acquire(count, urgent=urgent)
            held += count
            assert held <= 10
            try:
                await asyncio.sleep(0)
                served += 1
            finally:
                held -= count
                budget.release(count)

        tasks = [asyncio.create_task(take(count, urgent)) for count, urgent, _ in demands]
        await asyncio.sleep(0)
        for task, (_, _, leaves) in zip(tasks, demands, strict=True):
            if leaves and held:
                task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        left = sum(isinstance(result, asyncio.CancelledError) for result in results)
        assert not [result for result in results if isinstance(result, AssertionError)]
        assert served + left == len(demands)

    asyncio.run(run())


def test_urgent_demands_are_served_before_others_and_each_kind_in_order() -> None:
    async def run() -> list[str]:
        budget = Budget(1)
        order: list[str] = []

        async def take(name: str) -> None:
            await budget.acquire(1, urgent=name.startswith("urgent"))
            order.append(name)
            budget.release(1)

        await budget.acquire(1)
        tasks = [asyncio.create_task(take(name)) for name in ("other 1", "urgent 1", "other 2", "urgent 2")]
        await asyncio.sleep(0)
        budget.release(1)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == ["urgent 1", "urgent 2", "other 1", "other 2"]


def test_a_waiter_that_is_cancelled_lets_the_next_one_pass() -> None:
    async def run() -> None:
        budget = Budget(10)
        await budget.acquire(5)
        large = asyncio.create_task(budget.acquire(10))
        small = asyncio.create_task(budget.acquire(5))
        await asyncio.sleep(0)
        assert not small.done()
        large.cancel()
        await asyncio.wait_for(small, 1)

    asyncio.run(run())


def test_more_than_a_budget_has_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="11 units asked of a budget of 10"):
        asyncio.run(Budget(10).acquire(11))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 5)), max_size=60))
def test_a_cache_holds_what_was_used_last_within_its_capacity(uses: list[tuple[str, int]]) -> None:
    cache: RecentlyUsed[int] = RecentlyUsed(12)
    model: dict[str, int] = {}
    for key, weight in uses:
        cache.put(key, weight, weight)
        model.pop(key, None)
        while model and sum(model.values()) + weight > 12:
            del model[next(iter(model))]
        model[key] = weight
        assert [cache.get(name) for name in model] == list(model.values())
        assert all(cache.get(name) is None for name in "abcdefgh" if name not in model)


def test_a_cache_keeps_what_is_in_use() -> None:
    cache: RecentlyUsed[str] = RecentlyUsed(2, in_use=lambda value: value == "busy")
    cache.put("a", "busy")
    for key in "bcdef":
        cache.put(key, "idle")
    assert cache.get("a") == "busy"
    assert [key for key in "bcdef" if cache.get(key)] == ["f"]


GROWS = """
import sys
from contextlib import nullcontext
from pathlib import Path
from udfs.bounded import heap_without_holes

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

bytes(20 * 2**20)  # glibc now keeps blocks up to this size in its heap
with heap_without_holes() if sys.argv[1] == "with" else nullcontext():
    before = resident_mib()
    blocks = [b"x" * (300 * 2**10) for _ in range(400)]
    last = b"x" * (300 * 2**10)
    blocks.clear()
    print(resident_mib() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize(("heap", "kept"), [("with", False), ("without", True)])
def test_large_blocks_that_are_freed_go_back_to_the_system(heap: str, kept: bool) -> None:
    done = subprocess.run([sys.executable, "-c", GROWS, heap], capture_output=True, text=True, check=True)
    assert (float(done.stdout) > 60) == kept


FAULTS = """
import resource, sys
from contextlib import nullcontext
from pathlib import Path
from udfs.bounded import heap_kept

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def batch():
    activations = [b"x" * (12 * 2**20) for _ in range(8)]
    del activations

idle = resident_mib()
with heap_kept() if sys.argv[1] == "with" else nullcontext():
    batch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    batch()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults, resident_mib() - idle)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
@pytest.mark.parametrize(("heap", "asked_anew"), [("with", False), ("without", True)])
def test_a_second_batch_uses_the_memory_of_the_first(heap: str, asked_anew: bool) -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS, heap], capture_output=True, text=True, check=True)
    faults, left = done.stdout.split()
    assert (int(faults) > 96 * 2**20 // 4096 // 2) == asked_anew
    assert float(left) < 60, "what the batches had is given back at the end"


def test_an_exception_without_frames_holds_nothing_of_what_led_to_it() -> None:
    class Read:
        pass

    read = Read()
    freed = weakref.ref(read)

    def fail(_read: Read) -> None:
        try:
            raise TimeoutError
        except TimeoutError as first:
            failure = ValueError("a cycle: the frame holds the exception, and that its traceback")
            raise failure from first

    kept: list[Exception] = []
    gc.disable()
    try:
        try:
            fail(read)
        except ValueError as error:
            kept.append(error)
        del read
        assert freed() is not None
        assert without_frames(kept[0]) is kept[0]
        assert freed() is None
    finally:
        gc.enable()
    assert str(kept[0]).startswith("a cycle")
    assert (kept[0].__cause__, kept[0].__context__, kept[0].__traceback__) == (None, None, None)
