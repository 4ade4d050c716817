"""What a policy would change as a file: what is in it, how much of it, and what of an image anyone gets to see."""

import base64
import datetime as dt
import io
import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from jobs.reporting.whatif import MOSAIC, SECTIONS, render_effects
from jobs.run.effects import (
    CHANGES,
    COMPARED_COLUMNS,
    KINDS,
    MOST_GROUPS,
    MOST_REPLACED,
    MOST_ROWS,
    MOST_SAMPLES,
    Effects,
    FeedChange,
    FeedRow,
    Flips,
    Group,
    Groups,
    ReasonChange,
    Replaced,
    Seen,
)
from schemas.policy import NsfwRule, Policy
from tests.jobs.reporting.conftest import HOSTILE, jpeg, title, url
from tests.jobs.reporting.test_report import Seen as Page
from tests.lensfeed.tiny_warehouse import DAY, image_id

AT = dt.datetime(2026, 2, 1, 3, tzinfo=dt.UTC)
POLICY = Policy(
    name="strict",
    rules=(NsfwRule(id="nsfw-block", kind="nsfw", action="block", reason="nsfw", comment="because", at_least=0.5),),
)
SECRET = "s3cretw0rd"
NOTHING = Effects(
    run_id="run-1",
    policy_before="policy-1",
    policy_after="policy-2",
    sightings=12,
    changed=0,
    outcomes={},
    flips=[],
    reasons=[],
    kinds={kind: Groups(0, []) for kind in KINDS},
    images={},
    replaced=[],
    more_replaced=0,
    feed={change: FeedChange(0, []) for change in CHANGES},
    owed=0,
)


def seen(number: int, *, is_accepted: bool = True) -> Seen:
    return Seen(image_id(number), title(number), url(number), is_accepted)


def group(before: str, after: str, samples: Sequence[Seen], count: int = 0, was: str = "", why: str = "") -> Group:
    return Group(before, after, was, why, count or len(samples), [(DAY, one) for one in samples])


def some_effects() -> Effects:
    """Something of everything: images from 0 leave, from 4 enter, of which the first is stored; 8 takes 6's place."""
    leaving = group("accepted", "blocked", [seen(number) for number in range(4)], 9, why="nsfw")
    entering = [seen(number, is_accepted=False) for number in (4, 5)]
    return replace(
        NOTHING,
        changed=12,
        outcomes={("accepted", "blocked"): 9, ("blocked", "deferred"): 3},
        flips=[Flips("accepted", "blocked", "nsfw", 9)],
        reasons=[ReasonChange("nsfw", 9, 0), ReasonChange("words", 0, 3)],
        kinds=NOTHING.kinds
        | {
            "leaves": Groups(11, [leaving]),
            "enters": Groups(3, [group("blocked", "deferred", entering, 3, was="words", why="owed: never fetched")]),
        },
        images={"delete": 7, "update": 2},
        replaced=[Replaced(seen(6), seen(8, is_accepted=False), 2)],
        more_replaced=1,
        feed=NOTHING.feed
        | {
            "delete": FeedChange(5, [FeedRow(70, seen(7))]),
            "update": FeedChange(1, [FeedRow(60, seen(6), [("title", HOSTILE[0], None), ("url_count", "3", "2")])]),
        },
        owed=3,
        jpegs={image_id(number): jpeg(number) for number in (0, 1, 2, 3, 4, 6, 7, 8)},
    )


def text_of(html: str) -> str:
    return " ".join(Page(html).text.split())


def sides(html: str) -> list[int]:
    """The longer side of each image in the page, in pixels."""
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)
    return [max(Image.open(io.BytesIO(base64.b64decode(data))).size) for data in found]


def test_every_section_is_there_with_its_counts() -> None:
    html = render_effects(some_effects(), POLICY, AT)
    page, text = Page(html), text_of(html)
    ids = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert ids == [section for section, _ in SECTIONS]
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == ["#main", *(f"#{section}" for section in ids)]
    for told in (
        "Under policy strict",
        "12 sightings decided otherwise of 12",
        "accepted → blocked: 9 sightings Then: nsfw.",
        "blocked → deferred: 3 sightings Now: words. Then: owed: never fetched.",
        "nsfw 9 0 nsfw-block because",
        "words 0 3 no rule of this policy",
        "7 images would leave the index",
        "2 images go over",
        "Deleted: 5",
        "Inserted: 0",
        "url_count 3 2",
        "others 3",
    ):
        assert told in text, told
    assert page.tags.count("table") == page.tags.count("caption")
    assert {"header", "nav", "main", "footer", "h1"} <= set(page.tags)
    everything = page.values("id")
    assert len(everything) == len(set(everything))
    assert set(page.values("aria-labelledby")) <= set(everything)


def test_what_is_not_shown_is_counted() -> None:
    text = text_of(render_effects(some_effects(), POLICY, AT))
    assert "and 5 more" in text  # of nine that leave for nsfw
    assert "2 more sightings, in smaller groups, are not shown" in text
    assert "and 1 more, of fewer images" in text
    assert "and 4 more" in text  # rows of the feed


def test_an_empty_what_if_says_so() -> None:
    html = render_effects(NOTHING, POLICY, AT)
    text = text_of(html)
    assert "Nothing would change: each of the 12 sightings comes to what it came to." in text
    assert "Nothing would leave." in text
    assert "Nothing would enter." in text
    assert "No representative would be replaced." in text
    assert sides(html) == []


def test_every_thumbnail_of_what_is_accepted_is_veiled_and_no_other_can_be_recognised() -> None:
    html = render_effects(some_effects(), POLICY, AT)
    veiled = re.findall(r'<details class="veil"><summary><img src="([^"]*)"', html)
    mosaics = re.findall(r'<img class="mosaic" src="([^"]*)"', html)
    assert len(veiled) == 4 + 1 + 2  # leaving, the representative now, rows of the feed
    assert len(mosaics) == 1 + 1  # the one that enters and is stored, the representative then
    assert html.count("<img") == len(veiled) + len(mosaics)
    assert "<details open" not in html
    assert all(side > MOSAIC for side in sides("".join(veiled)))
    assert all(side <= MOSAIC for side in sides("".join(mosaics)))
    assert ".veil:not([open]) img { filter: blur(" in html


def test_what_is_not_stored_is_listed_without_an_image() -> None:
    html = render_effects(replace(some_effects(), jpegs={}), POLICY, AT)
    assert sides(html) == []
    for number in range(6):
        assert Page(html).text.count(url(number)[:40].replace("\u202e", "\ufffd")) >= 1, number


def test_what_came_from_the_web_is_text_and_nothing_else() -> None:
    html = render_effects(some_effects(), POLICY, AT)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "base", "input"} & set(page.tags)
    assert page.tags.count("h1") == 1
    assert page.tags.count("style") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith(("#", "data:")) for value in [*page.values("href"), *page.values("src")])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    for hostile in HOSTILE[:4]:
        assert hostile not in html
    assert HOSTILE[0] in page.text
    assert HOSTILE[4] in page.text
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    assert "default-src &#39;none&#39;" in policy
    assert "script-src" not in policy


def test_passwords_in_urls_are_not_shown() -> None:
    told = f"see http://user:{SECRET}@h.example/ there"
    one = Seen(image_id(0), told, f"https://h.example/?u=http://user:{SECRET}@h.example/", is_accepted=True)
    effects = replace(
        some_effects(),
        kinds=NOTHING.kinds | {"leaves": Groups(1, [group("accepted", "blocked", [one], why=told)])},
        flips=[Flips("accepted", "deferred", told, 1)],
        feed=NOTHING.feed | {"update": FeedChange(1, [FeedRow(1, one, [("title", told, told)])])},
        replaced=[Replaced(one, one, 1)],
    )
    html = render_effects(effects, POLICY, AT)
    assert SECRET not in html
    assert "see http://h.example/ there" in html


def test_a_file_with_as_much_as_it_may_hold_is_small_enough_to_be_mailed() -> None:
    data = io.BytesIO()
    Image.effect_noise((512, 512), 120).convert("RGB").save(data, "JPEG", quality=90)
    numbers = iter(range(10_000))

    def any_image() -> Seen:
        return Seen(f"{next(numbers):064x}", "t" * 4000, "https://h.example/" + "u" * 4000, is_accepted=True)

    groups = [group("accepted", "blocked", [any_image() for _ in range(MOST_SAMPLES)]) for _ in range(MOST_GROUPS)]
    differing = [(name, "n" * 4000, "o" * 4000) for name in COMPARED_COLUMNS]
    full = replace(
        NOTHING,
        changed=1,
        kinds={kind: Groups(1000, groups) for kind in KINDS},
        replaced=[Replaced(any_image(), any_image(), 1) for _ in range(MOST_REPLACED)],
        feed={
            change: FeedChange(99, [FeedRow(1, any_image(), differing) for _ in range(MOST_ROWS)]) for change in CHANGES
        },
    )
    full = replace(full, jpegs={one.image_id: data.getvalue() for one in full.shown() if one.image_id})
    html = render_effects(full, POLICY, AT)
    assert html.count("<img") == 3 * MOST_GROUPS * MOST_SAMPLES + 2 * MOST_REPLACED + 3 * MOST_ROWS
    assert len(html.encode()) < 15_000_000
