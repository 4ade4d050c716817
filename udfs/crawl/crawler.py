"""From a URL to an outcome: redirects, retries, robots.txt, opt-outs and politeness around single exchanges."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings
from udfs.bounded import Budget, RecentlyUsed, without_frames
from udfs.crawl.addresses import Lookup, NameResolutionError, SafeResolver, system_lookup
from udfs.crawl.exchange import (
    Deadline,
    Exchanges,
    FetchError,
    Headers,
    Reply,
    failure_of,
    printable,
    retry_after_s,
)
from udfs.crawl.host_limits import HostGate, HostUnavailableError, MachineSlots, share_of
from udfs.crawl.opt_outs import robots_tag_opt_out, tdm_opt_out
from udfs.crawl.robots import MAX_ROBOTS_BYTES, MAX_ROBOTS_REDIRECTS, RobotsRules, no_robots, parse_robots
from udfs.media_types import is_other_media
from udfs.urls import BadUrl, host_of, join_url, normalise_url, origin_of

DNS_THREADS = 32
PARSING_THREADS = 1
"""For robots.txt; more would wait for the interpreter lock. Name servers that hang must not keep it waiting."""
KNOWN_HOSTS = 20_000
"""Hosts whose limits are remembered; the ones in use always are."""

KNOWN_ROBOTS_BYTES = 32 * 2**20
ROBOTS_OVERHEAD_BYTES = 400
"""The robots.txt files that are remembered, by the memory they take parsed; each with its entry in the cache."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
RETRY_LATER = frozenset({429, 503})
WHOLE = frozenset({200, 203})
"""Statuses whose body is the image; 203 is that of a proxy which has changed something, RFC 9110 section 15.3.4."""

CONNECTION_LEVEL = frozenset({FailureCode.DNS, FailureCode.CONNECT, FailureCode.TLS, FailureCode.TIMEOUT})

ROBOTS_UNAVAILABLE = "robots_unavailable"

Refuse = Callable[[str], str | None]
"""A normalised URL to the reason code why it must not be requested, or null."""


@dataclass(frozen=True, slots=True)
class Target:
    """One row to fetch. `etag` and `last_modified` are the validators that `validated_url` (normalised; the row's own
    or the last of its redirects) gave with the content `image_id`, which a 304 of that URL confirms. Without all three
    of URL, content and validators nothing conditional is asked."""

    url_id: str | None
    url: str | None
    validated_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    image_id: str | None = None
    host_shards: int | None = None


@dataclass(slots=True)
class Fetched:
    """What became of one row: the fields of `udfs.crawl.fetch.FETCHED`, with `size` for `bytes`. `image_id` is the
    content that a 304 confirmed; of a body it is worked out later."""

    url_id: str | None
    url: str | None
    status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    x_robots_tag: str | None = None
    tdm_reservation: str | None = None
    robots_evidence: str | None = None
    size: int | None = None
    attempts: int = 0
    redirects: int = 0
    hops: list[str] | None = None
    fetched_at: datetime | None = None
    duration_ms: float = 0.0
    failure_code: str | None = None
    failure_detail: str | None = None
    deferred: bool = False
    blocked_reason: str | None = None
    not_modified: bool = False
    image_id: str | None = None
    body: bytes | None = None

    def end_with(self, error: Exception) -> None:
        """Takes down what `error` means for the row."""
        match error:
            case FetchError():
                self.failure_code, self.failure_detail = error.code.value, error.detail
            case DeferredError() | HostUnavailableError():
                self.deferred, self.failure_detail = True, str(error)
            case BlockedError():
                self.blocked_reason = error.reason
            case _:
                # The type alone: a message may hold anything, a URL's secrets too.
                self.failure_code, self.failure_detail = FailureCode.INTERNAL.value, type(error).__name__


class DeferredError(Exception):
    """The row is left for another night; the message says why."""


class BlockedError(Exception):
    """`refuse` named a reason for a URL on the way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_RobotsAnswer = RobotsRules | FetchError | DeferredError | HostUnavailableError


class Crawler:
    """Fetches rows on one event loop. Use as an asynchronous context manager."""

    def __init__(
        self,
        settings: CrawlSettings,
        *,
        refuse: Refuse | None = None,
        lookup: Lookup | None = None,
        foreign_host_shards: int = 1,
    ) -> None:
        self._settings = settings
        self._refuse = refuse
        self._foreign_host_shards = foreign_host_shards
        self._machine_slots = MachineSlots(settings.per_host_concurrency)
        self._executor = ThreadPoolExecutor(DNS_THREADS + PARSING_THREADS, thread_name_prefix="lensfeed-dns")
        self._parsing = asyncio.Semaphore(PARSING_THREADS)
        self._resolver = SafeResolver(
            settings.allowed_networks,
            executor=self._executor,
            parallel=DNS_THREADS,
            cache_s=settings.dns_cache_s,
            timeout_s=settings.connect_timeout_s,
            patience=settings.circuit_breaker_failures,
            lookup=lookup or system_lookup,
        )
        self._exchanges = Exchanges(settings, self._resolver)
        self._slots = Budget(settings.concurrency)
        self._gates: RecentlyUsed[HostGate] = RecentlyUsed(KNOWN_HOSTS, in_use=lambda gate: gate.waiting > 0)
        self._robots: RecentlyUsed[_RobotsAnswer] = RecentlyUsed(KNOWN_ROBOTS_BYTES)
        self._robots_under_way: dict[str, asyncio.Task[_RobotsAnswer]] = {}
        self._agent = settings.agent_token

    async def __aenter__(self) -> Self:
        self._machine_slots.__enter__()
        await self._exchanges.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        robots = list(self._robots_under_way.values())
        for task in robots:
            task.cancel()
        await asyncio.gather(*robots, return_exceptions=True)  # they hold connections, and locks for them
        await self._resolver.close()
        await self._exchanges.__aexit__()
        self._machine_slots.__exit__()
        # A name lookup cannot be interrupted: a hanging one ends by itself, and keeps nobody waiting.
        self._executor.shutdown(wait=False, cancel_futures=True)

    def release(self, count: int) -> None:
        """Gives back the bytes of bodies that the consumer has taken."""
        self._exchanges.budget.release(count)

    async def fetch(self, target: Target) -> Fetched:
        """The outcome of one row. Every exception but cancellation becomes part of it."""
        fetched = Fetched(target.url_id, target.url)
        try:
            await _Row(self, self._settings, target, fetched).run()
        except Exception as error:  # noqa: BLE001 - one row must never take the others down
            fetched.end_with(without_frames(error))
        fetched.fetched_at = datetime.now(UTC)
        return fetched

    def refuse(self, url: str) -> None:
        """Raises `BlockedError` when the caller's rule names a reason."""
        reason = self._refuse(url) if self._refuse is not None else None
        if reason is not None:
            raise BlockedError(reason)

    async def gate(self, url: str, shards: int | None = None) -> HostGate:
        """The gate of a URL's host, after its address was found to be one that may be connected to.

        `shards` is null for a host that this task met by a redirect.

        Raises:
            FetchError: with `dns` or `forbidden_address`.
            HostUnavailableError: its name server has failed so often that it is left alone.
        """
        host = host_of(url)
        try:
            addresses = await self._resolver.addresses(host)
        except Exception as error:
            if isinstance(error, NameResolutionError) and error.is_left_alone:
                raise HostUnavailableError("circuit_open") from error
            failure = failure_of(error)
            if failure is None:
                raise
            raise failure from error
        key = min(addresses) if self._settings.share_limits_by_address else host
        share = share_of(self._settings.per_host_concurrency, self._foreign_host_shards, shards)
        gate = self._gates.get(key)
        if gate is None:
            gate = HostGate(self._settings, key, share, self._machine_slots)
            self._gates.put(key, gate)
        elif shards is not None:
            gate.widen(share)
        return gate

    async def robots(self, url: str, gate: HostGate) -> RobotsRules:
        """The rules of a URL's origin, fetched once per task.

        Raises:
            DeferredError: there is an answer, but no robots.txt to be had.
            FetchError: the origin cannot be reached at all.
        """
        origin = origin_of(url)
        answer = self._robots.get(origin)
        if answer is None:
            task = self._robots_under_way.get(origin)
            if task is None:
                task = asyncio.get_running_loop().create_task(self._ask_robots(origin, gate))
                self._robots_under_way[origin] = task
            # Shielded: a row that is given up must not take the answer from the others that wait for it.
            answer = await asyncio.shield(task)
        if isinstance(answer, RobotsRules):
            return answer
        raise answer  # the one object for every row: `fetch` takes the row's frames off it again

    async def _ask_robots(self, origin: str, gate: HostGate) -> "_RobotsAnswer":
        answer: _RobotsAnswer
        try:
            answer = await self._fetch_robots(origin, gate)
        except (FetchError, DeferredError, HostUnavailableError) as error:
            answer = without_frames(error)
        except Exception:  # noqa: BLE001 - whatever a hostile file brings about, its host is left alone
            answer = DeferredError(ROBOTS_UNAVAILABLE)
        finally:
            del self._robots_under_way[origin]
        weight = answer.weight if isinstance(answer, RobotsRules) else 0
        self._robots.put(origin, answer, ROBOTS_OVERHEAD_BYTES + weight)
        return answer

    async def _fetch_robots(self, origin: str, gate: HostGate) -> RobotsRules:
        deadline = Deadline(asyncio.get_running_loop().time() + self._settings.row_deadline_s)
        backoff = Backoff(self._settings)
        while True:
            try:
                rules = await self._fetch_robots_once(f"{origin}/robots.txt", gate, deadline)
                break
            except FetchError as failure:
                if await backoff.wait(failure, gate, deadline):
                    continue
                if not failure.reached:
                    failure.retryable = False
                    raise
                raise DeferredError(ROBOTS_UNAVAILABLE) from None
        if self._settings.obey_crawl_delay and rules.crawl_delay_s:
            gate.set_crawl_delay(rules.crawl_delay_s)
        return rules

    async def _fetch_robots_once(self, url: str, gate: HostGate, deadline: Deadline) -> RobotsRules:
        origin = origin_of(url)
        for _ in range(MAX_ROBOTS_REDIRECTS + 1):
            try:
                if origin_of(url) != origin:
                    gate = await self.gate(url)
                reply = await self.exchange(
                    url,
                    gate,
                    deadline,
                    wants_body=lambda status, _: status in WHOLE,
                    limit=MAX_ROBOTS_BYTES,
                    cut=True,
                    # After the images that wait: theirs come while the connection that brought the file is open.
                    urgent=False,
                )
            except FetchError as failure:
                failure.reached = failure.reached or origin_of(url) != origin
                raise
            if reply.status in REDIRECTS and "Location" in reply.headers:
                url = self._robots_redirect(url, reply.headers["Location"])
            elif reply.body is not None:
                try:
                    loop = asyncio.get_running_loop()
                    async with self._parsing:  # look-ups hold the other threads, or will
                        return await loop.run_in_executor(self._executor, parse_robots, reply.body, self._agent)
                finally:
                    self.release(len(reply.body))
            else:
                return no_robots(reply.status)
        return no_robots(310)

    def _robots_redirect(self, url: str, location: str) -> str:
        try:
            target = join_url(url, location)
            self.refuse(target)
        except (BadUrl, BlockedError) as error:
            raise DeferredError(ROBOTS_UNAVAILABLE) from error
        return target

    async def exchange(
        self,
        url: str,
        gate: HostGate,
        deadline: Deadline,
        *,
        wants_body: Callable[[int, Headers], bool],
        headers: dict[str, str] | None = None,
        limit: int,
        cut: bool = False,
        urgent: bool = True,
    ) -> Reply:
        """One polite exchange: see `udfs.crawl.exchange.Exchanges.get`. Raises statuses that ask to come back later."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with gate.slot(self._slots, urgent=urgent):
            begun = loop.time()
            # Waiting for one's turn is politeness, not the server's slowness.
            deadline.at += begun - asked
            settings = self._settings
            has_time = deadline.at - begun >= min(settings.request_timeout_s, settings.row_deadline_s) / 2
            try:
                reply = await self._exchanges.get(
                    url, deadline, wants_body=wants_body, headers=headers, limit=limit, cut=cut
                )
            except FetchError as failure:
                # Of a row whose time others have used up, before they led it here, this host has had too little.
                if failure.code in CONNECTION_LEVEL and (has_time or loop.time() < deadline.at):
                    gate.failed()
                raise
        gate.succeeded()
        if reply.status >= 500 or reply.status in RETRY_LATER:
            wait = retry_after_s(reply.headers.get("Retry-After"))
            if wait is not None and reply.status in RETRY_LATER:
                gate.pause(wait)
            code = FailureCode.RATE_LIMITED if reply.status == 429 else FailureCode.HTTP_5XX
            raise FetchError(code, f"status {reply.status}", retryable=True, retry_after_s=wait)
        return reply


class Backoff:
    """The retries of one row: exponential, with full jitter
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""

    def __init__(self, settings: CrawlSettings) -> None:
        self._settings = settings
        self.tries = 0

    async def wait(self, failure: FetchError, gate: HostGate | None, deadline: Deadline) -> bool:
        """Sleeps until the next try is due; false when there is none: permanent, or row, host or deadline forbid it."""
        settings = self._settings
        if not failure.retryable or self.tries >= settings.retries:
            return False
        delay = failure.retry_after_s
        if delay is None:
            delay = random.uniform(0, min(settings.max_backoff_s, settings.backoff_s * 2**self.tries))
        if asyncio.get_running_loop().time() + delay >= deadline.at:
            return False
        if gate is not None and not gate.may_retry():
            return False
        self.tries += 1
        without_frames(failure)  # else what was read of the body stays, booked by nobody, while this waits
        await asyncio.sleep(delay)
        return True


class _Row:
    """The state of one row under way."""

    def __init__(self, crawler: Crawler, settings: CrawlSettings, target: Target, fetched: Fetched) -> None:
        self._crawler = crawler
        self._settings = settings
        self._target = target
        self._fetched = fetched
        self._backoff = Backoff(settings)
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop.time() + settings.row_deadline_s)
        self._held = _validators(target)

    async def run(self) -> None:
        """Follows the row's URL to its end.

        Raises:
            FetchError, DeferredError, HostUnavailableError, BlockedError: every outcome but a body or a 304.
        """
        try:
            url = normalise_url(self._target.url or "")
        except BadUrl as error:
            raise FetchError(FailureCode.BAD_ROW, f"url: {error.reason}") from error
        try:
            await self._follow(url)
        finally:
            # The deadline moved on by every wait that was not the server's: what is left is its own time.
            begun = self._deadline.at - self._settings.row_deadline_s
            self._fetched.duration_ms = max(0.0, (self._loop.time() - begun) * 1000)

    async def _follow(self, url: str) -> None:
        own_host, shards = host_of(url), self._target.host_shards or 1
        seen = {url}
        while True:
            self._fetched.final_url = url
            # A validator says something about the very URL that gave it: others may use the same for other images.
            asked = self._held if url == self._target.validated_url else {}
            reply = await self._request(url, shards if host_of(url) == own_host else None, asked)
            if reply.status == 304 and asked and _contradicts(reply.headers, asked):
                reply = await self._request(url, shards if host_of(url) == own_host else None, {})
                asked = {}
            if reply.status not in REDIRECTS:
                self._conclude(reply, asked)
                return
            if "Location" not in reply.headers:
                raise FetchError(FailureCode.BAD_TYPE, f"status {reply.status} without Location")
            try:
                url = join_url(url, reply.headers["Location"])
            except BadUrl as error:
                raise FetchError(FailureCode.FORBIDDEN_ADDRESS, f"redirect: {error.reason}") from error
            if url in seen:
                raise FetchError(FailureCode.TOO_MANY_REDIRECTS, "redirect loop")
            if len(seen) > self._settings.max_redirects:
                raise FetchError(FailureCode.TOO_MANY_REDIRECTS, f"more than {self._settings.max_redirects} redirects")
            seen.add(url)
            self._fetched.redirects += 1
            self._fetched.hops = [*(self._fetched.hops or ()), url]

    async def _request(self, url: str, shards: int | None, conditional: dict[str, str]) -> Reply:
        self._crawler.refuse(url)
        while True:
            gate = None
            try:
                gate = await self._admit(url, shards)
                self._fetched.attempts = 1 + self._backoff.tries
                return await self._crawler.exchange(
                    url,
                    gate,
                    self._deadline,
                    wants_body=self._inspect,
                    headers=conditional,
                    limit=self._settings.max_bytes,
                )
            except FetchError as failure:
                if not await self._backoff.wait(failure, gate, self._deadline):
                    raise

    async def _admit(self, url: str, shards: int | None) -> HostGate:
        """Address and robots.txt; the time that takes is shared by a host's rows, and not on this row's clock."""
        before = self._loop.time()
        gate = await self._crawler.gate(url, shards)
        gate.check()
        if self._settings.obey_robots:
            rules = await self._crawler.robots(url, gate)
            allowed, self._fetched.robots_evidence = rules.verdict(url)
            if not allowed:
                raise FetchError(FailureCode.ROBOTS, self._fetched.robots_evidence)
        self._deadline.at += self._loop.time() - before
        return gate

    def _inspect(self, status: int, headers: Headers) -> bool:
        """Takes down the evidence and looks for opt-outs and types, before any of the body is read."""
        fetched, settings = self._fetched, self._settings
        robots_tags = headers.getall("X-Robots-Tag", ())
        reservations = headers.getall("TDM-Reservation", ())
        content_type = ", ".join(headers.getall("Content-Type", ()))
        fetched.status = status
        fetched.content_type = printable(content_type) if content_type else None
        fetched.etag = _validator(headers.get("ETag"))
        fetched.last_modified = _validator(headers.get("Last-Modified"))
        fetched.x_robots_tag = printable(", ".join(robots_tags), 1000) if robots_tags else None
        fetched.tdm_reservation = printable(", ".join(reservations)) if reservations else None
        if status not in REDIRECTS | WHOLE | {304}:
            return False
        token = robots_tag_opt_out(robots_tags, settings.agent_token, settings.opt_out_tokens)
        if token is not None:
            raise FetchError(FailureCode.OPT_OUT, f"X-Robots-Tag: {token}")
        if settings.obey_tdm_reservation and tdm_opt_out(reservations):
            raise FetchError(FailureCode.OPT_OUT, "TDM-Reservation: 1")
        if status not in WHOLE:
            return False
        if is_other_media(content_type):
            raise FetchError(FailureCode.BAD_TYPE, f"declared as {fetched.content_type}")
        return True

    def _conclude(self, reply: Reply, asked: dict[str, str]) -> None:
        """What a status other than a redirect, 429 and 5xx means, of a request with the validators `asked`."""
        status = reply.status
        if status in WHOLE and reply.body is not None:
            self._fetched.size = len(reply.body)
            if not reply.body:
                # As for any response that claims to be an image and has no pixels.
                raise FetchError(FailureCode.DECODE, "empty body")
            self._fetched.body = reply.body
        elif status == 304 and asked:
            self._confirm(asked)
        elif status in {404, 410}:
            raise FetchError(FailureCode.GONE, f"status {status}")
        elif 400 <= status < 500:
            raise FetchError(FailureCode.HTTP_4XX, f"status {status}")
        else:
            raise FetchError(FailureCode.BAD_TYPE, f"status {status} carries no image")

    def _confirm(self, asked: dict[str, str]) -> None:
        """What is held is still current; what the server did not repeat of its validators (RFC 9110 section 15.4.5)
        is as it was sent, so that the next night has them."""
        fetched = self._fetched
        fetched.not_modified = True
        fetched.image_id = self._target.image_id
        fetched.etag = fetched.etag or asked.get("If-None-Match")
        fetched.last_modified = fetched.last_modified or asked.get("If-Modified-Since")


def _validators(target: Target) -> dict[str, str]:
    """The headers of a conditional request (RFC 9110 section 13.1), if the row has validators that can be sent and a
    content that they are of."""
    if target.image_id is None:
        return {}
    headers = {"If-None-Match": _validator(target.etag), "If-Modified-Since": _validator(target.last_modified)}
    return {name: value for name, value in headers.items() if value}


def _contradicts(headers: Headers, asked: dict[str, str]) -> bool:
    """Whether a 304 names another version than the one asked about (RFC 9111 section 4.3.4): an older one that was put
    back, say, is "not modified since"."""
    etag, held_etag = headers.get("ETag"), asked.get("If-None-Match")
    if etag and held_etag and etag.strip().removeprefix("W/") != held_etag.strip().removeprefix("W/"):
        return True
    modified, held_date = headers.get("Last-Modified"), asked.get("If-Modified-Since")
    # An ETag that holds decides: servers of one address may have written equal files at different times.
    is_same_tag = bool(etag and held_etag)
    return bool(modified and held_date and not is_same_tag and modified.strip() != held_date.strip())


def _validator(value: str | None) -> str | None:
    """A validator that can be sent back unchanged, else null: cut or repaired it would match nothing."""
    if value and len(value) <= 512 and value.isascii() and value.isprintable():
        return value
    return None
