"""Which network addresses may be connected to, and the resolver that yields no others.

The crawl follows URLs that strangers wrote: without this check a manifest row could read the metadata service of the
cloud, a neighbour's database or the job's own ports (server-side request forgery). Blocks follow the IANA
special-purpose registries (RFC 6890 and successors).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from aiohttp.abc import AbstractResolver, ResolveResult

from udfs.bounded import RecentlyUsed

Lookup = Callable[[str], Sequence[str]]
"""Name to addresses as text, blocking; raises `socket.gaierror`."""

_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL = tuple(
    ipaddress.ip_network(block)
    for block in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # former 6to4 relay anycast, RFC 7526
        "2001::/23",  # IETF protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation, RFC 9637
    )
)


KNOWN_NAMES = 20_000
"""Names whose addresses are remembered."""


class ForbiddenAddressError(Exception):
    """A host has no address that may be connected to."""


class NameResolutionError(Exception):
    """A host name has no address; `temporary` when the name server may answer otherwise later, `is_left_alone` when it
    has failed so often that it is not asked for now."""

    def __init__(self, message: str, *, temporary: bool, is_left_alone: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary
        self.is_left_alone = is_left_alone


_NEVER_PUBLIC = frozenset({"localhost", "example", "invalid", "test"})
"""Top-level domains that no public host is below (RFC 6761)."""


def may_be_public(host: str, allowed_networks: Sequence[str]) -> bool:
    """Whether asking a host (as `udfs.urls.host_of` gives it) may reach a stranger: a public address outside
    `allowed_networks`, or a name, of which only asking would tell."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rpartition(".")[2] not in _NEVER_PUBLIC
    allowed = any(address in ipaddress.ip_network(network) for network in allowed_networks)
    return not allowed and is_fetchable(host, ())


def is_fetchable(address: str, allowed_networks: Sequence[str]) -> bool:
    """Whether a connection to `address` (text, IPv4 or IPv6) is allowed.

    Allowed are globally routable unicast addresses, and what lies in `allowed_networks` (CIDR) *as written*. IPv4
    embedded in IPv6 (mapped, 6to4, NAT64, Teredo) is unwrapped and must be global in itself: an embedded form is
    never a member of an allowed IPv4 network, since no honest URL spells a private address that way.
    """
    return _is_fetchable(address, tuple(allowed_networks))


@lru_cache(maxsize=4096)
def _is_fetchable(text: str, allowed_networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if any(address in ipaddress.ip_network(network) for network in allowed_networks):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return _is_global(address)
    embedded = _embedded(address)
    if embedded:
        return all(_is_global(inner) for inner in embedded)
    return address in _GLOBAL_UNICAST_V6 and _is_global(address)


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in block for block in _SPECIAL)


def _embedded(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 inside an IPv6 address: RFC 4291 (mapped), 3056 (6to4), 6052 (NAT64), 4380 (Teredo: two)."""
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    return ()


def system_lookup(host: str) -> list[str]:
    """The addresses that the operating system's resolver gives for `host`, without duplicates, in its order."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class SafeResolver(AbstractResolver):
    """Resolves each name once per `cache_s` seconds, failures too, and yields only addresses that may be connected to.

    The HTTP client connects to exactly what `resolve` returns, so that a name cannot point elsewhere between the
    check and the connection (DNS rebinding). Not thread-safe: it belongs to one event loop.
    """

    def __init__(
        self,
        allowed_networks: Sequence[str],
        *,
        executor: Executor,
        parallel: int,
        cache_s: float,
        timeout_s: float,
        patience: int,
        lookup: Lookup = system_lookup,
    ) -> None:
        """`parallel`: threads of `executor` that look-ups may hold. `patience`: failures of a name's server in a row
        after which it is left alone for `cache_s` seconds."""
        self._allowed = tuple(allowed_networks)
        self._executor = executor
        # The time-out of a lookup starts when a thread is free for it, not when it joins the queue.
        self._turns = asyncio.Semaphore(parallel)
        self._patience = patience
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        self._lookup = lookup
        self._known: RecentlyUsed[tuple[float, _Resolution]] = RecentlyUsed(KNOWN_NAMES)
        self._in_vain: RecentlyUsed[int] = RecentlyUsed(KNOWN_NAMES)
        self._under_way: dict[str, asyncio.Task[_Resolution]] = {}
        self._going_on: dict[str, Future[Sequence[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Addresses of `host` (a name or a literal) that may be connected to; never empty.

        Raises:
            ForbiddenAddressError: no address may be connected to.
            NameResolutionError: there is no address at all, or no answer within `timeout_s`.
        """
        if _is_literal(host):
            if not is_fetchable(host, self._allowed):
                raise ForbiddenAddressError(f"{host} may not be connected to")
            return [host]
        resolution = await self._resolution(host)
        if resolution.safe:
            return list(resolution.safe)
        if resolution.forbidden is not None:
            raise ForbiddenAddressError(f"{host} is at {resolution.forbidden}")
        raise NameResolutionError(
            f"{host}: {resolution.problem}", temporary=resolution.temporary, is_left_alone=resolution.is_left_alone
        )

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """What aiohttp's connector asks for; raises as `addresses`."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self.addresses(host)
            if family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET)
        ]

    async def close(self) -> None:
        """Ends what is under way; a look-up that hangs in its thread is left to end by itself."""
        for task in self._under_way.values():
            task.cancel()

    async def _resolution(self, host: str) -> "_Resolution":
        loop = asyncio.get_running_loop()
        known = self._known.get(host)
        if known is not None and known[0] > loop.time():
            return known[1]
        task = self._under_way.get(host)
        if task is None:
            task = self._under_way[host] = loop.create_task(self._look_up(host))
        # Shielded: a row that is given up must not take the answer from the others that wait for it.
        return await asyncio.shield(task)

    async def _look_up(self, host: str) -> "_Resolution":
        loop = asyncio.get_running_loop()
        try:
            found = await self._answer(host)
        except TimeoutError:
            resolution = _Resolution(problem="no answer in time", temporary=True)
        except socket.gaierror as error:
            resolution = _Resolution(problem=str(error.strerror), temporary=error.errno == socket.EAI_AGAIN)
        except UnicodeError:
            resolution = _Resolution(problem="not a name that can be resolved")
        else:
            safe = tuple(address for address in found if is_fetchable(address, self._allowed))
            forbidden = found[0] if found and not safe else None
            resolution = _Resolution(safe, forbidden, "no address")
        finally:
            del self._under_way[host]
        in_vain = self._in_vain.get(host) or 0
        if resolution.temporary or in_vain:
            in_vain = in_vain + 1 if resolution.temporary else 0
            self._in_vain.put(host, in_vain)
        if in_vain >= self._patience:
            # Each row of the host would wait for all of its tries, and keep the rows of others from being read.
            resolution = replace(resolution, is_left_alone=True)
        if not resolution.temporary or resolution.is_left_alone:
            self._known.put(host, (loop.time() + self._cache_s, resolution))
        return resolution

    async def _answer(self, host: str) -> Sequence[str]:
        """What the look-up gives, whose turn ends with it. Raises TimeoutError where that takes too long.

        One that was given up goes on, and is waited for again: a name that hangs has one turn, not one for each try.
        """
        loop = asyncio.get_running_loop()
        if (answer := self._going_on.get(host)) is None:
            await self._turns.acquire()
            answer = self._begin(host, loop)
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.wrap_future(answer)

    def _begin(self, host: str, loop: asyncio.AbstractEventLoop) -> Future[Sequence[str]]:
        def end() -> None:
            self._going_on.pop(host, None)
            self._turns.release()

        def end_turn(_: Future[Sequence[str]]) -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(end)

        answer = self._going_on[host] = self._executor.submit(self._lookup, host)
        # Not when it is given up: its thread is taken until then, and the next one would wait for it with its own time.
        answer.add_done_callback(end_turn)
        return answer


@dataclass(frozen=True, slots=True)
class _Resolution:
    """What is known of a name: its safe addresses; else a forbidden one; else why there is none."""

    safe: tuple[str, ...] = ()
    forbidden: str | None = None
    problem: str = ""
    temporary: bool = False
    is_left_alone: bool = False


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()
