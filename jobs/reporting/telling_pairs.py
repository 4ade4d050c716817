"""An explanation of two images (`jobs.reporting.pairs`) as plain text for a terminal."""

from collections.abc import Iterator
from itertools import chain, repeat

from jobs.reporting.pairs import Because, Explanation, HashPair, Image, Obstacle, Pair
from schemas.settings import HASHED_VIEWS, DedupSettings
from udfs.images.minhash import recall
from udfs.images.phash import VIEW_MIN_SIDE

_WIDTH = 15
"""Of the labels on the left."""
_ENDS_WIDTH = 25
"""Of the names of two views."""


def told(explanation: Explanation) -> str:
    """The answer first; then the two images and who represents them, and each pair that decided."""
    names = explanation.names
    parts = [_answer(explanation), [_line("rule", _rule(explanation))]]
    parts += [list(_image(name, image, explanation)) for name, image in explanation.images.items()]
    parts += [list(_pair(pair, names, explanation)) for pair in explanation.pairs]
    last = [f"As of run {explanation.run_id}, dedup rule {explanation.warehouse_rule}."]
    if not explanation.is_warehouse_rule:
        last.append(
            f"These dedup settings are another rule, {explanation.rule}: buckets and edges are told by them, clusters "
            "are the warehouse's. Name the profile that the warehouse is run under."
        )
    parts.append(last)
    return "\n\n".join("\n".join(part) for part in parts)


def _line(label: str, *parts: str | None, width: int = _WIDTH) -> str:
    return f"  {label:<{width}}{', '.join(part for part in parts if part)}".rstrip()


def _bits(hamming: int, wide: int) -> str:
    return f"{hamming} of 64 bits apart, {wide} of 256"


def _rule(explanation: Explanation) -> str:
    settings = explanation.settings
    return (
        f"a view of one and a full view of the other at most {settings.max_hamming} of 64 bits and "
        f"{settings.max_hamming256} of 256 apart{_outer(settings)}, in a shared bucket ({settings.bands} bands of "
        f"{settings.rows} rows); "
        f"views {', '.join(settings.views)}"
    )


def _outer(settings: DedupSettings) -> str:
    """What is asked where two are further apart than `max_hamming`; nothing where that is no edge."""
    if not settings.outer_bits:
        return ""
    return (
        f" (up to {settings.outer_hamming} of 64 where both show {settings.outer_shades} shades and their hues are "
        f"within {settings.outer_hue_apart} degrees)"
    )


# The answer ---------------------------------------------------------------------------------------------------------


def _answer(explanation: Explanation) -> list[str]:
    number = "one cluster" if explanation.is_together else "two clusters"
    labelled = zip(chain(["because"], repeat("")), reasons(explanation), strict=False)
    return [f"A and B are in {number}", *(_line(label, reason) for label, reason in labelled)]


def reasons(explanation: Explanation) -> Iterator[str]:
    """Why the two are in one cluster, or are not, a line a reason."""
    names = explanation.names
    return _together(explanation, names) if explanation.is_together else _apart(explanation, names)


def _together(explanation: Explanation, names: dict[str, str]) -> Iterator[str]:
    if explanation.because is Because.BEHIND:
        pair = explanation.pair
        head, member = (pair.first, pair.second) if pair.first.is_representative else (pair.second, pair.first)
        yield f"{names[member.image_id]} stands behind {names[head.image_id]}: {_joint(pair, names)}"
        return
    for pair in explanation.behind:
        yield f"{names[pair.first.image_id]} stands behind R: {_joint(pair, names)}"
    if explanation.pair.is_joined:
        yield f"A and B alone would be joined too: {_joint(explanation.pair, names)}"
    else:
        yield f"A and B alone would not be joined: {_obstacle(explanation.pair, names, explanation)}"


def _joint(pair: Pair, names: dict[str, str]) -> str:
    """What joins them, or that nothing does."""
    if pair.is_one_group:
        return "all their hashes are equal, they are one group"
    if pair.edge is None:
        return "not by this rule, which joins them by no edge"
    return f"{_ends(pair, pair.edge, names)} are {_bits(pair.edge.hamming, pair.edge.hamming256)}"


def _apart(explanation: Explanation, names: dict[str, str]) -> Iterator[str]:
    pair, because = explanation.pair, explanation.because
    if because is Because.NOT_JOINED:
        yield f"nothing joins them: {_obstacle(pair, names, explanation)}"
        if not (pair.first.is_representative and pair.second.is_representative):
            yield "and no representative stands for both: each image joins the nearest that came before it"
        return
    earlier, later = pair.in_order()
    name, other = names[earlier.image_id], names[later.image_id]
    yield f"they might be joined, but are not: {_joint(pair, names)}"
    if because is Because.NO_HEAD:
        yield (
            f"only representatives gather others: {name}, which came before {other}, is none itself, and stands behind "
            f"{names[earlier.representative_id]}"
        )
    elif because is Because.NEARER:
        yield (
            f"an image joins the nearest representative that came before it: for {other} that is "
            f"{names[later.representative_id]}, {_bits(later.hamming, later.hamming256)}, and not {name}"
        )
    else:
        yield f"not by this rule, by which {other} would stand behind {name}, or behind one that is nearer"


def _obstacle(pair: Pair, names: dict[str, str], explanation: Explanation) -> str:
    """Why there is no edge."""
    settings, obstacle = explanation.settings, pair.obstacle
    if obstacle is Obstacle.FLAT:
        flat = pair.first if pair.first.is_flat else pair.second
        return (
            f"{names[flat.image_id]} is flat (its luminance deviates by {flat.flatness:.1f} grey levels, "
            f"dedup.flat_below is {settings.flat_below:g}): only identical bytes are its duplicates"
        )
    least = pair.hashes[0]
    ends, bits = _ends(pair, least, names), _bits(least.hamming, least.hamming256)
    if obstacle is Obstacle.TWO_COLOURS:
        name = "max" if least.most_apart == settings.max_hue_apart else "outer"
        return (
            f"{ends} are {bits}, near enough, but of two colours: {least.hues_apart} degrees apart, "
            f"dedup.{name}_hue_apart is {least.most_apart}"
        )
    if obstacle is Obstacle.NO_BUCKET:
        missed = 1 - recall(least.hamming, settings.bands, settings.rows)
        return f"{ends} are {bits}, near enough, but share no bucket: {missed:.1%} of pairs at that distance do not"
    met = "they share a bucket, but" if pair.is_candidate else "they share no bucket, and"
    told = f"{met} are too far apart: the nearest, {ends}, are {bits}"
    is_outer = settings.max_hamming < least.hamming <= settings.outer_hamming
    if is_outer and least.hamming256 <= settings.max_hamming256:
        shades = min(image.hashes[number].shades for image, number in pair.sides(least))
        told += f", and one of them shows {shades} shades where dedup.outer_shades is {settings.outer_shades}"
    return told


def _ends(pair: Pair, one: HashPair, names: dict[str, str]) -> str:
    first, second = (HASHED_VIEWS[view] for view in pair.views(one))
    return f"{first} of {names[pair.first.image_id]} and {second} of {names[pair.second.image_id]}"


# Images -------------------------------------------------------------------------------------------------------------


def _image(name: str, image: Image, explanation: Explanation) -> Iterator[str]:
    yield f"{name}  {image.image_id}"
    there = {HASHED_VIEWS[view]: len(numbers) for view, numbers in image.views()}
    yield _line("hashes", *(f"{view} {_counted(number, 'orientation')}" for view, number in there.items()))
    if missing := [view for view in explanation.settings.views if view not in there]:
        why = f"nothing to cut off, a side under {VIEW_MIN_SIDE} pixels, or flat"
        yield _line("", f"no {' and no '.join(missing)}: {why}")
    size = f"{image.size[0]} x {image.size[1]} pixels" if image.size else "no pixels stored"
    flat = "flat: it has no bands" if image.is_flat else None
    yield _line("image", size, f"luminance deviates by {image.flatness:.1f} grey levels", flat)
    yield _line("group", image.group_id)
    if image.is_representative:
        stands = "the representative"
    else:
        stands = f"behind {explanation.names[image.representative_id]}, {_bits(image.hamming, image.hamming256)}"
    yield _line("cluster", stands, f"first seen {image.first_seen}", f"{image.source_pixels:,} pixels at the source")


def _counted(number: int, what: str) -> str:
    return f"in {number} {what}" if number == 1 else f"in {number} {what}s"


# Pairs --------------------------------------------------------------------------------------------------------------


def _pair(pair: Pair, names: dict[str, str], explanation: Explanation) -> Iterator[str]:
    """The pair's distances, for each two views in the orientations of which the least is."""
    yield f"{names[pair.first.image_id]} and {names[pair.second.image_id]}"
    for ends, found in pair.by_views():
        first, second = (HASHED_VIEWS[view] for view in ends)
        least = found[0]
        met = sum(1 for one in found if one.bands)
        yield _line(
            f"{first}, {second}",
            _bits(least.hamming, least.hamming256),
            _orientations(pair, least),
            f"{least.bands} of {explanation.settings.bands} bands shared",
            f"{met} of {len(found)} orientations meet" if len(found) > 1 else None,
            "an edge" if least.is_edge else None,
            width=_ENDS_WIDTH,
        )
    yield from _turned(pair, explanation)
    if pair.is_one_group:
        yield _line("group", "one: all their hashes are equal, so that they have the same neighbours")
    met = sum(1 for one in pair.hashes if one.bands)
    bands = sum(one.bands for one in pair.hashes)
    compared = f"{met} of {len(pair.hashes)} pairs of hashes share a bucket, in {bands} bands altogether"
    if not pair.hashes:
        compared = "a flat image has no bands"
    yield _line("candidate", "yes" if pair.is_candidate else "no", compared)
    yield _line("edge", _verdict(pair, names, explanation))


def _verdict(pair: Pair, names: dict[str, str], explanation: Explanation) -> str:
    if pair.edge is not None:
        return f"yes, {_joint(pair, names)}"
    if pair.is_one_group:
        return "needless: they are one group"
    return f"no, {_obstacle(pair, names, explanation)}"


def _orientations(pair: Pair, one: HashPair) -> str:
    told = []
    for image, number in pair.sides(one):
        place, of = image.orientation(number)
        turned = {None: "", True: " (turned)", False: " (upright)"}[image.is_turned(number)]
        told.append(f"{place} of {of}{turned}")
    return f"orientation {told[0]} and {told[1]}"


def _turned(pair: Pair, explanation: Explanation) -> Iterator[str]:
    """What the canonical orientations are good for: the distance of the two as they are."""
    upright = pair.upright()
    if upright is not None:
        told = "one is the other flipped or turned" if pair.is_turned(explanation.settings) else None
        yield _line("as they are", f"the wholes, not turned to be hashed, {_bits(*upright)}", told)
