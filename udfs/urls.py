"""URL normalisation: one spelling a resource, so that `url_id` identifies it and its host can be checked.

Follows RFC 3986 section 6.2.2 (syntax-based normalisation) and, where browsers are laxer, the WHATWG URL Standard
(https://url.spec.whatwg.org/): IPv4 in decimal, octal and hex, back-slashes in paths, percent-encoded hosts.
"""

import hashlib
import ipaddress
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import idna

from schemas.hosts import is_number

MAX_URL_LENGTH = 8192
"""Characters; the least that RFC 9110 section 4.1 recommends to support."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_INNER_WHITE_SPACE = re.compile(r"[\t\r\n]")
"""Left out of a redirect's target by browsers."""
_EITHER_SLASH = "/\\"
_SLASHES = re.compile(r"[/\\]{2}")
_PARTS = re.compile(r"//([^/?#\\]*)([^?#]*)(?:\?([^#]*))?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_UNRESERVED = r"A-Za-z0-9._~\-"
_OUTSIDE_PATH = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_UNRESERVED}!$&'()*+,;=:@/\[\]]")
_OUTSIDE_QUERY = re.compile(rf"%[0-9A-Fa-f]{{2}}|[^{_UNRESERVED}!$&'()*+,;=:@/\[\]?]")
_IS_UNRESERVED = re.compile(rf"[{_UNRESERVED}]")


class BadUrl(ValueError):  # noqa: N818 - an outcome of a row, not a fault of the program
    """A URL that is never requested. `reason` is a short code; nothing of the URL itself is in the message."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def normalise_url(raw: str) -> str:
    """The one spelling of an absolute http(s) URL; idempotent.

    Lower-case scheme and host, IDN in punycode, IPv4 in dotted decimal, IPv6 compressed, default port, fragment and
    empty query dropped, dot segments removed, percent-encoding minimal and upper-case, non-ASCII as UTF-8. The order
    of the query is kept.

    Raises:
        BadUrl: with reason `empty`, `too_long`, `control_character`, `scheme`, `credentials`, `host`, `port` or
            `encoding`.
    """
    text = raw.strip(" \t\r\n\f\v")
    if not text:
        raise BadUrl("empty")
    if len(text) > MAX_URL_LENGTH:
        raise BadUrl("too_long")
    if _CONTROL.search(text):
        raise BadUrl("control_character")
    scheme_match = _SCHEME.match(text)
    scheme = scheme_match[1].lower() if scheme_match else ""
    if scheme_match is None or scheme not in DEFAULT_PORTS:
        raise BadUrl("scheme")
    parts = _PARTS.match(text, scheme_match.end())
    if parts is None:
        raise BadUrl("host")
    authority, path, query = parts.groups()
    if "@" in authority:
        raise BadUrl("credentials")
    host, port = _split_port(authority)
    netloc = _normalise_host(host)
    if port is not None and port != DEFAULT_PORTS[scheme]:
        netloc = f"{netloc}:{port}"
    path = _remove_dot_segments(_OUTSIDE_PATH.sub(_normalise_escape, path.replace("\\", "/")))
    query = "?" + _OUTSIDE_QUERY.sub(_normalise_escape, query) if query else ""
    normalised = f"{scheme}://{netloc}{path}{query}"
    if len(normalised) > MAX_URL_LENGTH:
        raise BadUrl("too_long")
    return normalised


def join_url(base: str, location: str) -> str:
    """The normalised target of a redirect: `location` (absolute or relative) seen from the normalised `base`, as
    browsers see it.

    Raises:
        BadUrl: as `normalise_url`.
    """
    # Not by urljoin, which drops a semicolon at the end and makes one slash of several.
    reference = _INNER_WHITE_SPACE.sub("", location.strip(" \t\r\n\f\v"))
    scheme = base[: base.index(":")]
    named = _SCHEME.match(reference)
    if named is not None and named[1].lower() not in DEFAULT_PORTS:
        raise BadUrl("scheme")
    if named is not None and (named[1].lower() != scheme or _SLASHES.match(reference, named.end())):
        return normalise_url(f"{named[1]}://{reference[named.end() :].lstrip(_EITHER_SLASH)}")
    relative = reference[named.end() :] if named is not None else reference
    if _SLASHES.match(relative):
        return normalise_url(f"{scheme}://{relative.lstrip(_EITHER_SLASH)}")
    path = base.partition("?")[0]
    if relative.startswith(tuple(_EITHER_SLASH)):
        return normalise_url(origin_of(base) + relative)
    if relative.startswith("?"):
        return normalise_url(path + relative)
    if not relative or relative.startswith("#"):
        return base
    return normalise_url(path[: path.rindex("/") + 1] + relative)


def url_id(normalised: str) -> str:
    """SHA-256 hex of a normalised URL."""
    return hashlib.sha256(normalised.encode()).hexdigest()


def origin_of(normalised: str) -> str:
    """`scheme://host[:port]` of a normalised URL: the scope of a robots.txt (RFC 9309 section 2.3)."""
    return normalised[: normalised.index("/", normalised.index("//") + 2)]


def host_of(normalised: str) -> str:
    """The host of a normalised URL, without port; an IPv6 address without its brackets."""
    netloc = origin_of(normalised).partition("//")[2]
    if netloc.startswith("["):
        return netloc[1 : netloc.index("]")]
    return netloc.partition(":")[0]


def host_spelt(text: str) -> str:
    """The host as `host_of` gives it, of one spelt so or as a URL may: in any script, in brackets, with a port. Raises
    BadUrl where no host is spelt so."""
    authority = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    if not set("/\\?#@").isdisjoint(authority):
        raise BadUrl("host")
    return host_of(normalise_url(f"http://{authority}/"))


def named_host(host: str) -> str:
    """The host as rules name it: an IPv4 address that is written as an IPv6 one is itself (RFC 4291, section 2.5.5.2).
    What a request goes to, and is checked for, stays as its URL spells it."""
    return str(ipaddress.IPv6Address(host).ipv4_mapped or host) if host.startswith("::ffff:") else host


def hosts_named(domain: str) -> tuple[str, ...]:
    """What `host_of` gives of the host itself: of an IPv4 address two spellings, else the one."""
    try:
        return domain, str(ipaddress.IPv6Address(f"::ffff:{ipaddress.IPv4Address(domain)}"))
    except ValueError:
        return (domain,)


def matches_domain(host: str, domains: frozenset[str]) -> str | None:
    """The entry of `domains` (lower-case, punycode) that is `host` or a parent domain of it, the longest first."""
    candidate = named_host(host)
    while candidate:
        if candidate in domains:
            return candidate
        candidate = candidate.partition(".")[2]
    return None


def _split_port(authority: str) -> tuple[str, int | None]:
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority, None
    if not port:
        return host, None
    digits = port.lstrip("0")  # before they are a number: int refuses thousands of digits, zeros among them
    if not (port.isascii() and port.isdigit()) or not digits or len(digits) > 5 or int(digits) > 65535:
        raise BadUrl("port")
    return host, int(digits)


@lru_cache(maxsize=4096)
def _normalise_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return f"[{_ipv6(host[1:-1])}]"
    if "%" in host:
        try:
            host = unquote_to_bytes(host).decode()
        except UnicodeError as error:  # bytes that are no UTF-8, or a lone surrogate, which has none
            raise BadUrl("host") from error
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except UnicodeError as error:  # idna.IDNAError is one; so is what a lone surrogate raises
            raise BadUrl("host") from error
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadUrl("host")
    if is_number(labels[-1]):
        return _ipv4(labels)
    return host


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise BadUrl("host") from error
    if address.scope_id is not None:
        raise BadUrl("host")
    return str(address)


def _ipv4(labels: list[str]) -> str:
    """Dotted decimal of any spelling that `inet_aton` takes: 2130706433, 0x7f.1, 0177.0.0.1 are all 127.0.0.1."""
    if len(labels) > 4:
        raise BadUrl("host")
    numbers = [_number(label) for label in labels]
    *heads, last = numbers
    if any(number > 255 for number in heads) or last >= 256 ** (5 - len(numbers)):
        raise BadUrl("host")
    value = last + sum(number << (24 - 8 * place) for place, number in enumerate(heads))
    return str(ipaddress.IPv4Address(value))


def _number(label: str) -> int:
    if not is_number(label):  # int takes more than inet_aton does: underscores, signs, a second prefix
        raise BadUrl("host")
    try:
        if label.startswith("0x"):
            return int(label[2:] or "0", 16)
        if len(label) > 1 and label.startswith("0"):
            return int(label, 8)
        return int(label)
    except ValueError as error:
        raise BadUrl("host") from error


def _normalise_escape(match: re.Match[str]) -> str:
    found = match[0]
    if len(found) == 3:
        character = chr(int(found[1:], 16))
        return character if _IS_UNRESERVED.match(character) else found.upper()
    try:
        # Redirect headers arrive as surrogate-escaped bytes: the bytes that the server sent are what it expects back.
        encoded = found.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise BadUrl("encoding") from error
    return "".join(f"%{byte:02X}" for byte in encoded)


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4, for an absolute path; an empty one becomes `/`."""
    if "/." not in path:
        return path or "/"
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)
