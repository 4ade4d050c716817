"""A placeholder for a user agent asks nobody but servers of one's own."""

import pytest
from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.config.profile import load
from jobs.run.introduction import check_agent, check_hosts
from jobs.run.nights import open_job
from schemas.settings import CrawlSettings

LOOPBACK = ("127.0.0.0/8", "::1/128")
OURS = "acme-pictures/1.0 (+https://pictures.acme.dev/bot)"


@pytest.mark.parametrize(
    "agent",
    [
        "lensfeed/0.1 (+https://example.org/lensfeed)",
        "x/1 (+http://www.EXAMPLE.com)",
        "x/1 (bot@example.net)",
        "x/1 (+https://bot.invalid/)",
        CrawlSettings().user_agent,
    ],
)
def test_a_placeholder_needs_networks_of_ones_own(agent: str) -> None:
    with pytest.raises(UsageError, match=r"^crawl\.user_agent: expected a name, .* found the placeholder"):
        check_agent(CrawlSettings(user_agent=agent))
    check_agent(CrawlSettings(user_agent=agent, allowed_networks=LOOPBACK))


@pytest.mark.parametrize("agent", [OURS, "example/1.0 (+https://counterexample.org/)", "x/1 (+https://testing.dev)"])
def test_whoever_can_be_reached_may_ask_anybody(agent: str) -> None:
    check_agent(CrawlSettings(user_agent=agent))


@pytest.mark.parametrize("profile", ["conf/production.yaml", "conf/nightly.yaml", "conf/nightly-gpu.yaml"])
def test_the_profiles_to_copy_are_refused_until_somebody_can_be_reached(profile: str) -> None:
    with pytest.raises(UsageError, match=r"^crawl\.user_agent: "):
        open_job(profile, [])
    config = load(profile, [f"crawl.user_agent={OURS}"])
    check_agent(config.crawl)
    assert config.crawl.allowed_networks == ()
    assert "squash" in config.policy.views


@pytest.mark.parametrize("host", ["pictures.example.org", "8.8.8.8", "2606:4700::1111", "intranet", "127.0.0.1.nip.io"])
def test_a_stranger_among_the_hosts_is_named(spark: SparkSession, host: str) -> None:
    requests = spark.createDataFrame([("127.0.0.1",), (host,), ("localhost",)], "host string")
    placeholder = CrawlSettings(allowed_networks=LOOPBACK)
    with pytest.raises(UsageError, match=rf"and {host} would be asked by that$"):
        check_hosts(placeholder, requests)
    check_hosts(placeholder.model_copy(update={"user_agent": OURS}), requests)


def test_hosts_of_ones_own_and_those_that_nobody_has_may_be_asked(spark: SparkSession) -> None:
    hosts = ["127.0.0.1", "127.9.9.9", "::1", "localhost", "a.localhost", "no.invalid", "a.example", "10.0.0.7"]
    check_hosts(
        CrawlSettings(allowed_networks=LOOPBACK), spark.createDataFrame([(host,) for host in hosts], "host string")
    )


def test_a_placeholder_is_for_a_few_hosts(spark: SparkSession) -> None:
    requests = spark.range(1500).selectExpr("concat('127.0.', id div 250, '.', id % 250) AS host")
    with pytest.raises(UsageError, match="more than 1000 hosts would be asked"):
        check_hosts(CrawlSettings(allowed_networks=LOOPBACK), requests)
