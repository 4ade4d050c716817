"""robots.txt as RFC 9309 has it, at a bounded cost."""

import gc
import time
import tracemalloc

import pytest

from udfs.crawl.robots import MAX_ROBOTS_BYTES, no_robots, parse_robots

URL = "http://example.com/a/b.jpg?c=d"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("", (True, "allowed")),
        ("User-agent: *\nDisallow:", (True, "allowed")),
        ("User-agent: *\nDisallow: /", (False, "disallowed:*")),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", (True, "allowed")),
        ("User-agent: *\nDisallow: /*.jpg$", (True, "allowed")),
        ("User-agent: *\nDisallow: /*.jpg", (False, "disallowed:*")),
        ("User-agent: *\nAllow: /\nUser-agent: lensfeed\nDisallow: /a", (False, "disallowed:lensfeed")),
        ("User-agent: *\nDisallow: /\nUser-agent: LensFeed\nDisallow:", (True, "allowed")),
        ("User-agent: LensFeed/1.0\nDisallow: /", (False, "disallowed:lensfeed")),
        ("User-agent: otherbot\nUser-agent: lensfeed # us\nDisallow: /a", (False, "disallowed:lensfeed")),
        ("User-agent: otherbot\nDisallow: /", (True, "allowed")),
        ("User-agent: lens\nDisallow: /", (True, "allowed")),
        ("User-agent: mylensfeed\nDisallow: /", (True, "allowed")),
        ("user agent : *\ndisallow: /a", (False, "disallowed:*")),
        ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", (False, "disallowed:*")),
        ("Disallow: /a\nUser-agent: *\nDisallow: /x", (True, "allowed")),
        ("<html>not found</html>", (True, "allowed")),
    ],
)
def test_the_most_specific_group_and_rule_decide(text: str, verdict: tuple[bool, str]) -> None:
    assert parse_robots(text.encode(), "lensfeed").verdict(URL) == verdict


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("User-agent: *\nCrawl-delay: 2.5", 2.5),
        ("User-agent: *\nCrawl-delay: 2\nUser-agent: lensfeed\nCrawl-delay: 7", 7),
        ("User-agent: *\nCrawl-delay: soon", None),
        ("User-agent: *\nCrawl-delay: -1", None),
        ("User-agent: *\nCrawl-delay: inf", None),
        ("User-agent: otherbot\nCrawl-delay: 7", None),
    ],
)
def test_crawl_delay_is_that_of_our_group(text: str, delay: float | None) -> None:
    assert parse_robots(text.encode(), "lensfeed").crawl_delay_s == delay


def test_no_robots_txt_allows_all_and_says_why() -> None:
    assert no_robots(404).verdict(URL) == (True, "none:404")


def test_what_lies_beyond_the_size_that_must_be_parsed_is_ignored() -> None:
    rules = b"User-agent: *\n" + b"#" * MAX_ROBOTS_BYTES + b"\nDisallow: /"
    assert parse_robots(rules, "lensfeed").verdict(URL) == (True, "allowed")


def test_bytes_that_are_no_utf8_harm_only_their_line() -> None:
    assert parse_robots(b"User-agent: *\nDisallow: /\xff\nDisallow: /a", "lensfeed").verdict(URL)[0] is False


@pytest.mark.parametrize(
    "hostile",
    [
        b"".join(b"User-agent: bot%d\n" % i for i in range(15_000)) + b"Disallow: /x\n" * 15_000,
        b"User-agent: *\n" + b"Disallow: /" + b"*a" * 200_000 + b"b\n",
        b"User-agent: *\n" + b"".join(b"Disallow: /*%d*%d$\n" % (i, i) for i in range(20_000)),
        b"\n" * MAX_ROBOTS_BYTES,
        b":" * MAX_ROBOTS_BYTES,
    ],
)
def test_a_hostile_file_costs_no_more_than_moments(hostile: bytes) -> None:
    begun = time.process_time()
    rules = parse_robots(hostile, "lensfeed")
    rules.verdict("http://example.com/" + "a" * 8000)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "text",
    [
        "User-agent: *\nDisallow: /private/\n",
        "User-agent: *\nDisallow: /wp-admin/\nAllow: /wp-admin/admin-ajax.php\n\nSitemap: https://a.example/map.xml\n",
        "User-agent: *\n" + "".join(f"Disallow: /some/path-{number}/*.php\n" for number in range(100)),
        "User-agent: *\n" + "".join(f"Allow: /{number}$\n" for number in range(100)),
        "User-agent: *\n" + "".join(f"Allow: /{number}\n" for number in range(2000)),
        "".join(f"User-agent: bot-{number}\nDisallow: /{number}\n" for number in range(100)),
        "".join(f"Sitemap: https://a.example/{number}\n" for number in range(100)),
        "# a long comment\n" * 1000,
    ],
    ids=["small", "wordpress", "wildcards", "ends", "plain", "agents", "sitemaps", "comments"],
)
def test_the_weight_of_a_file_is_the_memory_it_takes(text: str) -> None:
    parse_robots(text.encode(), "lensfeed").verdict(URL)
    tracemalloc.start()
    try:
        rules = [parse_robots(text.encode(), "lensfeed") for _ in range(3)]
        for one in rules:
            one.verdict(URL)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] / len(rules)
    finally:
        tracemalloc.stop()
    assert taken / 1.5 < rules[0].weight < 2 * taken + 1000
