"""Only globally routable unicast may be connected to, however it is written."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.crawl.addresses import (
    ForbiddenAddressError,
    Lookup,
    NameResolutionError,
    SafeResolver,
    is_fetchable,
    system_lookup,
)

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "100::1",
    "2001:db8::1",
    "2001:20::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff0e::1",
    "64:ff9b:1::8.8.8.8",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_fetched_from(address: str) -> None:
    assert is_fetchable(address, ())


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_may_not(address: str) -> None:
    assert not is_fetchable(address, ())


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "2130706433", "fe80::1%eth0", "::1 "])
def test_what_is_no_address_may_not(text: str) -> None:
    assert not is_fetchable(text, ("0.0.0.0/0",))


def embedded(inner: ipaddress.IPv4Address) -> list[str]:
    """Every IPv6 spelling of an IPv4 address that a network stack or a gateway may unwrap."""
    number = int(inner)
    return [
        str(ipaddress.IPv6Address(value))
        for value in (
            0xFFFF << 32 | number,  # mapped
            0x2002 << 112 | number << 80,  # 6to4
            int(ipaddress.IPv6Address("64:ff9b::")) | number,  # NAT64
            0x20010000 << 96 | int(ipaddress.IPv4Address("8.8.8.8")) << 64 | (number ^ 0xFFFFFFFF),  # Teredo client
            0x20010000 << 96 | number << 64 | (int(ipaddress.IPv4Address("8.8.8.8")) ^ 0xFFFFFFFF),  # Teredo server
        )
    ]


@given(st.ip_addresses(v=4) | st.sampled_from([a for a in NOT_PUBLIC if "." in a and ":" not in a]))
def test_an_embedded_address_is_judged_by_what_it_embeds(inner: ipaddress.IPv4Address | str) -> None:
    inner = ipaddress.IPv4Address(inner)
    for address in embedded(inner):
        assert is_fetchable(address, ()) == is_fetchable(str(inner), ())


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_global_unicast_may_be_fetched_from(address: ipaddress.IPv6Address) -> None:
    wrapped = address.ipv4_mapped or address in ipaddress.IPv6Network("64:ff9b::/96")
    if is_fetchable(str(address), ()) and not wrapped:
        assert address in ipaddress.IPv6Network("2000::/3")
        assert not address.is_private


def test_allowed_networks_hold_for_addresses_as_written() -> None:
    assert is_fetchable("127.0.0.1", ["127.0.0.0/8"])
    assert is_fetchable("fd00::1", ["10.0.0.0/8", "fd00::/8"])
    assert not is_fetchable("10.0.0.1", ["127.0.0.0/8"])
    assert not is_fetchable("::ffff:127.0.0.1", ["127.0.0.0/8"])


class Names:
    """A name service that counts."""

    def __init__(self, answers: dict[str, Sequence[str] | Exception]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answer = self.answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer


def resolver_of(executor: Executor, lookup: Lookup, **options: Any) -> SafeResolver:
    given = {"parallel": 2, "cache_s": 60, "timeout_s": 5, "patience": 10} | options
    return SafeResolver((), executor=executor, lookup=lookup, **given)


def resolve(names: Names, *hosts: str, **options: Any) -> list[list[str] | str]:
    """Addresses of each host in turn, or the name of the exception."""

    async def run() -> list[list[str] | str]:
        found: list[list[str] | str] = []
        with ThreadPoolExecutor(2) as executor:
            resolver = resolver_of(executor, names, **options)
            for host in hosts:
                try:
                    found.append([entry["host"] for entry in await resolver.resolve(host, 80)])
                except NameResolutionError as error:
                    found.append("left alone" if error.is_left_alone else "NameResolutionError")
                except ForbiddenAddressError:
                    found.append("ForbiddenAddressError")
        return found

    return asyncio.run(run())


def test_a_name_yields_only_its_safe_addresses() -> None:
    names = Names({"mixed": ["10.0.0.1", "8.8.8.8", "::1", "2606:4700:4700::1111"], "inner": ["10.0.0.1", "::1"]})
    assert resolve(names, "mixed", "inner") == [["8.8.8.8", "2606:4700:4700::1111"], "ForbiddenAddressError"]


def test_answers_and_failures_are_asked_for_once() -> None:
    names = Names({"a": ["8.8.8.8"], "b": socket.gaierror(socket.EAI_NONAME, "none"), "c": [], "d": ["::1"]})
    resolve(names, *"abcdabcd")
    assert names.asked == list("abcd")


def test_answers_are_asked_for_again_when_they_are_old() -> None:
    names = Names({"a": ["8.8.8.8"]})
    resolve(names, "a", "a", cache_s=0)
    assert names.asked == ["a", "a"]


def test_a_failure_of_the_name_server_itself_is_not_remembered() -> None:
    names = Names({"a": socket.gaierror(socket.EAI_AGAIN, "try again")})
    assert resolve(names, "a", "a") == ["NameResolutionError"] * 2
    assert names.asked == ["a", "a"]


def test_a_name_server_that_keeps_failing_is_left_alone_for_a_while() -> None:
    names = Names({"a": socket.gaierror(socket.EAI_AGAIN, "try again"), "b": ["8.8.8.8"]})
    assert resolve(names, *"aababaaa", patience=3) == [
        *["NameResolutionError"] * 2,
        ["8.8.8.8"],
        "left alone",
        ["8.8.8.8"],
        *["left alone"] * 3,
    ]
    assert names.asked == list("aaba")
    names.asked.clear()
    resolve(names, *"aaaaa", patience=3, cache_s=0)
    assert names.asked == list("aaaaa")


def test_a_name_server_that_answers_has_failed_no_more() -> None:
    names = Names({})

    def at_times(host: str) -> Sequence[str]:
        names.asked.append(host)
        if len(names.asked) % 3:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return ["8.8.8.8"]

    async def run() -> list[str | bool]:
        found: list[str | bool] = []
        with ThreadPoolExecutor(2) as executor:
            resolver = resolver_of(executor, at_times, cache_s=0, patience=3)
            for _ in range(9):
                try:
                    found += await resolver.addresses("a")
                except NameResolutionError as error:
                    found.append(error.temporary)
        return found

    assert asyncio.run(run()) == [True, True, "8.8.8.8"] * 3


def test_a_name_that_hangs_is_looked_up_once_however_often_it_is_asked_for() -> None:
    begun: list[str] = []
    ended = threading.Event()

    def hanging(host: str) -> Sequence[str]:
        begun.append(host)
        ended.wait(10)
        return ["8.8.8.8"]

    async def run() -> list[str]:
        with ThreadPoolExecutor(4) as executor:
            resolver = resolver_of(executor, hanging, timeout_s=0.1)
            for _ in range(3):
                with pytest.raises(NameResolutionError, match="no answer in time"):
                    await resolver.addresses("hangs.example")
            ended.set()
            return await resolver.addresses("hangs.example")

    assert asyncio.run(run()) == ["8.8.8.8"]
    assert len(begun) in {1, 2}  # once more where the first ended before it was asked for again
    assert set(begun) == {"hangs.example"}


def test_names_that_hang_cost_others_none_of_their_time() -> None:
    """A look-up that was given up still has its thread: the next one must not wait for that with its own time-out."""
    over = threading.Event()

    def hanging(host: str) -> Sequence[str]:
        if host.startswith("dead"):
            over.wait(5)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return ["8.8.8.8"]

    async def run() -> list[list[str] | BaseException]:
        with ThreadPoolExecutor(2) as executor:
            resolver = resolver_of(executor, hanging, timeout_s=0.1)
            asyncio.get_running_loop().call_later(0.5, over.set)
            hosts = ("dead1", "dead2", "good1", "good2")
            return await asyncio.gather(*map(resolver.addresses, hosts), return_exceptions=True)

    *dead, good, other = asyncio.run(run())
    assert [str(error) for error in dead] == ["dead1: no answer in time", "dead2: no answer in time"]
    assert good == other == ["8.8.8.8"]


def test_literal_addresses_are_checked_and_never_looked_up() -> None:
    names = Names({})
    assert resolve(names, "8.8.8.8", "127.0.0.1", "::1") == [["8.8.8.8"], *["ForbiddenAddressError"] * 2]
    assert names.asked == []


def test_many_waiters_for_one_name_share_one_look_up() -> None:
    names = Names({"a": ["8.8.8.8"]})

    async def run() -> None:
        with ThreadPoolExecutor(2) as executor:
            resolver = resolver_of(executor, names)
            await asyncio.gather(*(resolver.addresses("a") for _ in range(20)))

    asyncio.run(run())
    assert names.asked == ["a"]


def test_the_system_knows_localhost() -> None:
    assert set(system_lookup("localhost")) <= {"127.0.0.1", "::1"}
