"""The tables as one picture: for each table a bar a client, get and put, and where its rounds lie."""

from xml.sax.saxutils import escape

from .figures import Table

WIDTH, LEFT = 860, 130
# Room for the figures behind a bar.
SAID = 85
BAR, GAP, HEAD = 16, 4, 40
COLOURS = ("#9aa5b1", "#d9632b", "#e8a33d", "#5a8f69", "#3f6fa3")
PANELS = {"get": "get, GiB/s", "put": "put, GiB/s"}


def svg(tables: list[Table]) -> str:
    """Black on white, whatever the page behind it is."""
    parts, y = [], 10
    panel = (WIDTH - LEFT) // len(PANELS) - SAID
    titles = list(dict.fromkeys(table.title for table in tables))
    for title in titles:
        some = [table for table in tables if table.title == title]
        parts.append(_text(10, y + 16, title.replace("`", ""), "bold", 12))
        y += HEAD
        for n, head in enumerate(PANELS.values()):
            parts.append(_text(LEFT + n * (panel + SAID), y - 6, head, size=11, fill="#52606d"))
        # One scale for a kind of store, so that sizes compare.
        scales = {op: max(f[op].rate for t in some for rounds in t.rounds.values() for f in rounds) for op in PANELS}
        for table in some:
            parts.append(_text(10, y + BAR - 4, table.size, "bold", 11))
            for colour, (name, rounds) in zip(COLOURS, table.rounds.items()):
                parts.append(_text(LEFT - 8, y + BAR - 4, name, size=11, anchor="end"))
                for n, op in enumerate(PANELS):
                    x, scale = LEFT + n * (panel + SAID), panel / scales[op]
                    rates = [figures[op].rate for figures in rounds]
                    median = table.median(name, op)
                    said = f"{median:.2f}" + ("" if name == table.against else f" ({table.ratio(name, op):.2f}×)")
                    parts.append(f'<rect x="{x}" y="{y}" width="{median * scale:.1f}" height="{BAR}" fill="{colour}"/>')
                    middle, low, high = y + BAR / 2, x + min(rates) * scale, x + max(rates) * scale
                    parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1f2933" stroke-width="1"/>')
                    parts.append(_text(max(high, x + median * scale) + 5, y + BAR - 4, said, size=10))
                y += BAR + GAP
            y += 2 * GAP
        y += 4 * GAP
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        f'font-family="sans-serif">\n<rect width="{WIDTH}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, weight: str = "normal", size: int = 12, anchor: str = "start", fill: str = "#1f2933") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'
