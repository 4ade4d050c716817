"""Nobody is asked for images by somebody who cannot be reached: a user agent that is still a placeholder is refused.

What a profile shows alone is refused before anything is held (`check_agent`). A profile that may ask networks of one's
own, as the demo's does, is refused where a manifest turns out to lead elsewhere, before the first request
(`check_hosts`): its run is discarded.
"""

from pyspark.sql import DataFrame

from jobs.config.errors import UsageError
from schemas.settings import CrawlSettings
from udfs.crawl.addresses import may_be_public

MOST_HOSTS = 1_000
"""Of one's own, in a run under a placeholder: the driver looks at each."""


def check_agent(crawl: CrawlSettings) -> None:
    """Raise UsageError where the user agent is a placeholder and no network is allowed that it would do for."""
    if crawl.names_nobody and not crawl.allowed_networks:
        raise UsageError(_refusal(crawl, "only networks under crawl.allowed_networks may be asked by that"))


def check_hosts(crawl: CrawlSettings, requests: DataFrame) -> None:
    """Raise UsageError where the user agent is a placeholder and one of the hosts (`host`) may be a stranger's.

    Nothing is looked at where it is none.
    """
    if not crawl.names_nobody:
        return
    hosts = [row[0] for row in requests.select("host").distinct().limit(MOST_HOSTS + 1).collect()]
    strangers = sorted(host for host in hosts if may_be_public(host, crawl.allowed_networks))
    if strangers:
        raise UsageError(_refusal(crawl, f"{strangers[0]} would be asked by that"))
    if len(hosts) > MOST_HOSTS:
        raise UsageError(_refusal(crawl, f"more than {MOST_HOSTS} hosts would be asked by that"))


def _refusal(crawl: CrawlSettings, why: str) -> str:
    return (
        f"crawl.user_agent: expected a name, a version, and a page or an address where a site's owner finds you, as in "
        f"'name/1.0 (+https://your.site/bot)'; found the placeholder {crawl.user_agent!r}, and {why}"
    )
