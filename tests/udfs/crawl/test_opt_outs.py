"""Opt-outs in response headers, scoped to an agent or not."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.settings import CrawlSettings
from tests.wild import TEXTS
from udfs.crawl.opt_outs import robots_tag_opt_out, tdm_opt_out

TOKENS = CrawlSettings().opt_out_tokens


@pytest.mark.parametrize(
    ("values", "token"),
    [
        ([], None),
        ([""], None),
        (["all"], None),
        (["nofollow, noarchive"], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow,noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["noml"], "noml"),
        (["none"], "none"),
        (["nofollow", "noai"], "noai"),
        (["otherbot: noai"], None),
        (["otherbot: nofollow, noai"], None),
        (["lensfeed: noai"], "noai"),
        (["LensFeed : nofollow, noai"], "noai"),
        (["otherbot: noindex, lensfeed: noai"], "noai"),
        (["otherbot: noai", "noindex"], "noindex"),
        (["*: noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 5, noindex"], "noindex"),
        (["noaim, xnoai"], None),
        (["\udce9: noai"], None),
        (["noai noimageai"], "noai"),
        (["nofollow noimageai"], "noimageai"),
        (["noai;"], "noai"),
        (["nofollow; noai"], "noai"),
        (["nofollow|noai"], "noai"),
        (["nofollow\tnoai"], "noai"),
        ([",,noai,"], "noai"),
        (['"noai"'], "noai"),
        (["'noindex, noai'"], "noindex"),
        (["[noai]"], "noai"),
        (["noai."], "noai"),
        (["no-ai"], "noai"),
        (["No_Image_AI"], "noimageai"),
        (["no-index, follow"], "noindex"),
        (["notranslate: x, noai"], "noai"),
        (["notranslate: noai"], "noai"),
        (["nosnippet: noai"], "noai"),
        (["nofollow: noindex"], "noindex"),
        (["noai: 1"], "noai"),
        (["noai=1"], "noai"),
        (["noai:true, all"], "noai"),
        (["index, follow, max-image-preview:large, max-snippet:-1, noai"], "noai"),
        (["max-image-preview:noai"], "noai"),
        (["unavailable_after: Saturday, 25-Jun-30 15:00:00 GMT, noai"], "noai"),
        (["unavailable_after: 2030-06-25T15:00:00+00:00 noai"], "noai"),
        (["unavailable-after: 25 Jun 2030 15:00:00 PST; noai"], "noai"),
        (["lensfeed:noai"], "noai"),
        (["lensfeed/1.0: noai"], "noai"),
        (["LensFeed noai: x"], "noai"),
        (["lensfeed: nofollow noai"], "noai"),
        (["lensfeed: nofollow; noai"], "noai"),
        (["otherbot: nofollow noai"], None),
        (["otherbot: nofollow; noai"], None),
        (["otherbot:noai"], None),
        (["otherbot/2.1: noai"], None),
        (["360spider: noai"], None),
        (["other-bot_x.y: noai"], None),
        (["otherbot: noindex lensfeed: noai"], "noai"),
        (["otherbot: noindex; *: noai"], "noai"),
        (["noai otherbot: noindex"], "noai"),
        (["nofollow otherbot: noindex"], None),
        (["lensfeed: nofollow, otherbot: noai"], None),
        (["otherbot: max-snippet: 5, noai"], None),
        (["otherbot: notranslate: x, noai"], None),
        (["robots: noai"], "noai"),
        (["all: noai"], "noai"),
        (["X-Robots-Tag: noai"], "noai"),
        (["user-agent: lensfeed, noai"], "noai"),
        (["User-agent: * noai"], "noai"),
        (["user-agent: otherbot; noai"], None),
        ([": noai"], "noai"),
        (["noai" + "\udce9"], None),
        (["noindexing, nonoai, no, ai"], None),
        (["no ai"], None),
        (["nosuchrule: x, noai"], "noai"),
        (["otherbot: nosuchrule: x, noai"], None),
    ],
)
def test_x_robots_tag(values: list[str], token: str | None) -> None:
    assert robots_tag_opt_out(values, "lensfeed", TOKENS) == token


def test_only_the_configured_tokens_are_an_opt_out() -> None:
    assert robots_tag_opt_out(["noindex, none"], "lensfeed", ("noai",)) is None


@pytest.mark.parametrize(
    ("values", "reserved"),
    [
        ([], False), (["0"], False), (["1"], True), ([" 1 "], True), (["0", "1"], True), (["x"], False),
        (["0, 1"], True), (["1;"], True), (['"1"'], True), (["1; policy=x"], True), (["10"], False), (["-1"], False),
        (["01"], False), (["1.5"], False), (["\udce9"], False), ([""], False),
    ],
)  # fmt: skip
def test_tdm_reservation(values: list[str], reserved: bool) -> None:
    assert tdm_opt_out(values) is reserved


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=3))
def test_any_header_is_read(values: list[str]) -> None:
    assert robots_tag_opt_out(values, "lensfeed", TOKENS) in {None, "none", *TOKENS}
    assert tdm_opt_out(values) in {True, False}


RULES = st.sampled_from(
    ["nofollow", "noarchive", "notranslate", "max-snippet: 5", "max-image-preview:large", "all", "x"]
)
SEPARATORS = st.sampled_from([",", ", ", " , ", ";", "; ", " ", "  ", "|", ",,", "\t"])


@settings(deadline=None)
@given(st.lists(RULES, max_size=4), st.sampled_from([*TOKENS]), st.lists(RULES, max_size=4), SEPARATORS, st.booleans())
def test_a_token_is_found_wherever_it_stands_and_however_rules_are_separated(
    before: list[str], token: str, after: list[str], separator: str, upper: bool
) -> None:
    value = separator.join([*before, token.upper() if upper else token, *after])
    assert robots_tag_opt_out([value], "lensfeed", TOKENS) == token
    assert robots_tag_opt_out([f"lensfeed: {value}"], "lensfeed", TOKENS) == token
    assert robots_tag_opt_out([f"otherbot: {value}"], "lensfeed", TOKENS) is None


@pytest.mark.parametrize("value", ["noai" * 250_000, "a:" * 500_000, "a " * 500_000, ": " * 500_000, "a" * 10**6 + ":"])
def test_a_header_without_end_costs_no_more_than_its_length(value: str) -> None:
    start = time.process_time()
    assert robots_tag_opt_out([value], "lensfeed", TOKENS) is None
    assert not tdm_opt_out([value])
    assert time.process_time() - start < 3
