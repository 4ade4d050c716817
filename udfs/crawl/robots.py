"""robots.txt as RFC 9309 has it: what its answer means for one origin.

Parsing and matching are Protego's; here is what surrounds them: which answers allow everything, which defer, and a
bound on what a hostile file may cost.
"""

import re
from dataclasses import dataclass, field
from functools import cache

from protego import Protego

MAX_ROBOTS_BYTES = 500 * 1024
"""RFC 9309 section 2.5: at least 500 KiB must be parsed; what follows is ignored."""

MAX_ROBOTS_REDIRECTS = 5
"""RFC 9309 section 2.3.1.2; a longer chain counts as no robots.txt."""

FILE_BYTES, FIELD_BYTES, RULE_BYTES, WILDCARD_BYTES = 1400, 70, 300, 550
"""What Protego keeps of a file, of a field and of a rule beside its text, and more of one with `*` or `$` (measured,
CPython 3.11)."""

_AGENT_LINE = re.compile(r"\s*user[-\s]*agent\b\s*:?\s*(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """What one origin's robots.txt says to us. `evidence` says where the answer came from when no rule decided."""

    evidence: str
    crawl_delay_s: float | None = None
    named: bool = False
    weight: int = 0
    """Bytes that keeping the parsed file takes, about."""
    _parser: Protego | None = field(default=None, repr=False)
    _agent: str = ""

    def verdict(self, url: str) -> tuple[bool, str]:
        """Whether `url` may be fetched, and a short text that says by what: `allowed`, `disallowed:*`, `none:404`."""
        if self._parser is None:
            return True, self.evidence
        if self._parser.can_fetch(url, self._agent):
            return True, self.evidence
        return False, f"disallowed:{self._agent if self.named else '*'}"


@cache
def no_robots(status: int) -> RobotsRules:
    """No robots.txt, so all is allowed: a 4xx status (RFC 9309 section 2.3.1.3), or 310 for too many redirects."""
    return RobotsRules(evidence=f"none:{status}")


def parse_robots(body: bytes, agent: str) -> RobotsRules:
    """The rules of a robots.txt of at most `MAX_ROBOTS_BYTES` bytes for the product token `agent` (lower-case).

    Groups of other agents are folded into one before parsing: the cost of a file is groups times rules, and a hostile
    file could otherwise hold a task for minutes.
    """
    text = body[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace")
    named = False
    weight = FILE_BYTES
    lines = []
    for line in text.splitlines():
        agent_line = _AGENT_LINE.match(line)
        if agent_line is None:
            lines.append(line)
            weight += _weight(line)
            continue
        name = agent_line[1].partition("#")[0].strip().lower()
        token = re.split(r"[/\s]", name, maxsplit=1)[0].strip("*") if name != "*" else name
        if token == agent:
            named = True
            lines.append(f"User-agent: {agent}")
        else:
            lines.append("User-agent: *" if token == "*" else "User-agent: -")
    parser = Protego.parse("\n".join(lines))
    return RobotsRules("allowed", parser.crawl_delay(agent), named, weight, parser, agent)


def _weight(line: str) -> int:
    start = line.lstrip()[:1]
    if start in {"", "#"}:
        return 0
    if start not in "aAdD":  # neither Allow nor any way to write Disallow
        return FIELD_BYTES + len(line)
    return RULE_BYTES + len(line) + (WILDCARD_BYTES if "*" in line or "$" in line else 0)
