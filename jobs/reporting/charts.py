"""Charts as inline SVG. Colours are classes that the style sheet fills, so that a chart follows light and dark.

Every text goes through `element`, which escapes it. A chart that says what a table beside it says too is hidden from
screen readers; the others carry a title and a description.
"""

from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 720, 260
"""Of a chart with axes, in units of its view box."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 28, 36


def element(name: str, *content: str | Markup, **attributes: str | float | None) -> Markup:
    """An element with its attributes and content, all of it escaped that is not markup already.

    In names of attributes `_` stands for `-`, and one at the end is dropped (`class_`). Null ones are left out.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, Markup("").join(escape(part) for part in content))


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def bar(parts: Iterable[tuple[str, float]], whole: float) -> Markup:
    """A horizontal bar for a table's cell: (class, value) one beside the other, `whole` being its full width."""
    drawn, left = [], 0.0
    for name, value in parts:
        width = 100 * value / whole if whole else 0.0
        if value:
            drawn.append(element("rect", x=left, y=0.0, width=max(width, 0.4), height=10.0, class_=f"fill-{name}"))
        left += width
    return element("svg", *drawn, class_="bar", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


def sparkline(values: Sequence[int | None], name: str) -> Markup:
    """How a number came to what it is; nulls are gaps, and there is nothing to draw of a single one."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return Markup("")
    low, high = min(0, *known), max(*known, 1)
    step = 96 / (len(values) - 1)
    points = [
        (2 + number * step, 22 - 20 * (value - low) / (high - low))
        for number, value in enumerate(values)
        if value is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element(
        "svg",
        element("title", f"{name}: {', '.join('gone' if value is None else f'{value:,}' for value in values)}"),
        element("polyline", points=line, class_="line"),
        element("circle", cx=points[-1][0], cy=points[-1][1], r=2.0, class_="fill-accent"),
        class_="spark",
        viewBox="0 0 100 24",
        role="img",
    )


def _chart(title: str, description: str, *content: Markup, height: float = HEIGHT) -> Markup:
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *content,
        class_="chart",
        viewBox=f"0 0 {WIDTH} {_number(height)}",
        role="img",
        aria_label=f"{title}. {description}",
    )


def _axis(ticks: Iterable[tuple[float, str]], bottom: float) -> list[Markup]:
    return [element("text", label, x=x, y=bottom + 18, class_="tick middle") for x, label in ticks]


def histogram(
    title: str,
    counts: Sequence[int],
    span: tuple[float, float],
    bands: Sequence[tuple[float, float, str]] = (),
) -> Markup:
    """Counts in bins of equal width over `span`; `bands`: (from, to, name) on that axis, each with its own colour.

    Heights go by the square root, which the axis says: a few among thousands are seen.
    """
    low, high = span
    width, bottom = WIDTH - _LEFT - _RIGHT, HEIGHT - _BOTTOM
    tallest = max(*counts, 1) ** 0.5

    def at(value: float) -> float:
        return _LEFT + width * (value - low) / (high - low)

    drawn = []
    for start, end, name in bands:
        drawn.append(
            element(
                "rect", x=at(start), y=_TOP, width=at(end) - at(start), height=bottom - _TOP, class_=f"band band-{name}"
            )
        )
        drawn.append(element("text", name, x=(at(start) + at(end)) / 2, y=_TOP - 9.0, class_="label middle"))
    for number in (1, 10, 100, 1000, 10_000, 100_000, 1_000_000):
        if number <= max(counts, default=0):
            y = bottom - (bottom - _TOP) * number**0.5 / tallest
            if number == 1 or bottom - y > 24:
                drawn.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
                drawn.append(element("text", f"{number:,}", x=_LEFT - 6.0, y=y + 4, class_="tick end"))
    step = (high - low) / len(counts)
    for place, count in enumerate(counts):
        start = low + place * step
        tall = (bottom - _TOP) * count**0.5 / tallest
        tip = element("title", f"{start:.2f} to {start + step:.2f}: {count:,}")
        if count:
            drawn.append(
                element(
                    "rect",
                    tip,
                    x=at(start) + 1,
                    y=bottom - tall,
                    width=width / len(counts) - 2,
                    height=tall,
                    class_=f"fill-{_band_of(start + step / 2, bands)}",
                )
            )
    drawn.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    ticks = sorted({low, high, *(start for start, _, _ in bands), *((low + high) / 2,)})
    apart = [tick for n, tick in enumerate(ticks) if n == 0 or at(tick) - at(ticks[n - 1]) > 24]
    drawn += _axis([(at(tick), f"{tick:g}") for tick in apart], bottom)
    said = "; ".join(f"{name} from {start:g} to {end:g}" for start, end, name in bands)
    total = f"{sum(counts):,} in {len(counts)} bins, heights by square root"
    return _chart(title, f"{total}. {said}" if said else total, *drawn)


def _band_of(value: float, bands: Sequence[tuple[float, float, str]]) -> str:
    return next((name for start, end, name in bands if start <= value < end), "accent")


def columns(title: str, nights: Sequence[tuple[str, Mapping[str, int], bool]]) -> Markup:
    """Shares by night, one column each: (date, count by class, whether it is the night that is told of)."""
    width, bottom = WIDTH - _LEFT - _RIGHT, HEIGHT - _BOTTOM
    pitch = width / max(1, len(nights))
    wide = min(pitch * 0.72, 64.0)
    drawn = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - (bottom - _TOP) * share
        drawn.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        drawn.append(element("text", f"{share:.0%}", x=_LEFT - 6.0, y=y + 4, class_="tick end"))
    each = -(-len(nights) // 8)
    for number, (date, counts, is_told) in enumerate(nights):
        middle, top = _LEFT + pitch * (number + 0.5), float(bottom)
        total = sum(counts.values()) or 1
        for name, count in counts.items():
            tall = (bottom - _TOP) * count / total
            top -= tall
            tip = element("title", f"{date}: {name} {count:,} ({count / total:.1%})")
            if count:
                drawn.append(
                    element("rect", tip, x=middle - wide / 2, y=top, width=wide, height=tall, class_=f"fill-{name}")
                )
        if number % each == 0:
            drawn.append(element("text", date, x=middle, y=bottom + 18, class_="tick middle"))
        if is_told:
            drawn.append(element("circle", cx=middle, cy=_TOP - 10.0, r=3.5, class_="fill-accent"))
    return _chart(title, f"{len(nights)} nights; a dot is above those that this report is on", *drawn)


def plane(
    title: str, description: str, points: Sequence[tuple[float, float, str | None, str]], height: float = 470.0
) -> Markup:
    """Points (x, y in [0, 1], `data:` URI of a thumbnail or None, what it shows) on a plane, thumbnails above dots."""
    side, margin = 42.0, 27.0
    dots, thumbnails = [], []
    for x, y, thumbnail, text in points:
        left, top = margin + (WIDTH - 2 * margin) * x, height - margin - (height - 2 * margin) * y
        if thumbnail is None:
            dots.append(element("circle", cx=left, cy=top, r=2.2, class_="dot"))
            continue
        where = {"x": left - side / 2, "y": top - side / 2, "width": side, "height": side}
        thumbnails.append(
            element(
                "g",
                element("title", text),
                element("rect", rx=4.0, class_="mat", **where),
                element("image", href=thumbnail, preserveAspectRatio="xMidYMid slice", **where),
            )
        )
    frame = element("rect", x=0.5, y=0.5, width=WIDTH - 1.0, height=height - 1, rx=8.0, class_="frame")
    return _chart(title, description, frame, *dots, *thumbnails, height=height)
