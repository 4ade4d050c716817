"""Opt-outs in response headers, scoped to an agent or not."""

import pytest

from schemas.settings import CrawlSettings
from udfs.opt_outs import robots_tag_opt_out, tdm_opt_out

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
    ],
)
def test_x_robots_tag(values: list[str], token: str | None) -> None:
    assert robots_tag_opt_out(values, "lensfeed", TOKENS) == token


def test_only_the_configured_tokens_are_an_opt_out() -> None:
    assert robots_tag_opt_out(["noindex, none"], "lensfeed", ("noai",)) is None


@pytest.mark.parametrize(
    ("values", "reserved"),
    [([], False), (["0"], False), (["1"], True), ([" 1 "], True), (["0", "1"], True), (["x"], False)],
)
def test_tdm_reservation(values: list[str], reserved: bool) -> None:
    assert tdm_opt_out(values) is reserved
