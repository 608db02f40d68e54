"""Draws the tables as SVG. Each client has two bars, get and put, with a line from its slowest to its fastest round."""

from xml.sax.saxutils import escape

from .figures import Summary, Table

WIDTH, LEFT = 900, 180
# Space for the figures to the right of a bar.
FIGURES = 90
BAR, GAP, HEAD = 16, 4, 40
BARE, OTHERS, COLOURS = "#cbd2d9", "#9aa5b1", ("#d9632b", "#e8a33d", "#5a8f69", "#3f6fa3")
PANELS = ("get", "put")
PANEL = (WIDTH - LEFT) // len(PANELS) - FIGURES


def svg(tables: list[Table]) -> str:
    """Draws dark text on white, because the page around the chart may be dark."""
    parts, y = [], 10
    for group in dict.fromkeys(table.group for table in tables):
        of_group = [table for table in tables if table.group == group]
        parts.append(_text(10, y + 16, of_group[0].title.replace("`", ""), weight="bold", size=12))
        y += HEAD
        for panel, op in enumerate(PANELS):
            parts.append(_text(_left(panel), y - 6, f"{op}, GiB/s", fill="#52606d"))
        # All chunk sizes of a store share one scale, so that you can compare them.
        scales = [PANEL / max(ops[op].high for table in of_group for ops in table.clients.values()) for op in PANELS]
        for table in of_group:
            parts.append(_text(10, y + BAR - 4, table.size, weight="bold"))
            for colour, (name, ops) in zip(_colours(table), table.clients.items()):
                parts.append(_text(LEFT - 8, y + BAR - 4, name, anchor="end"))
                for panel, op in enumerate(PANELS):
                    parts += _bar(_left(panel), y, ops[op], scales[panel], colour)
                y += BAR + GAP
            y += 2 * GAP
        y += 4 * GAP
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        f'font-family="sans-serif">\n<rect width="{WIDTH}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )


def _colours(table: Table) -> list[str]:
    """Gives one colour for each client. The bare system calls and clients of others are grey, so kvconn's clients stand out."""
    ours = iter(COLOURS)
    first = next(iter(table.clients))
    return [BARE if name.startswith("bare") else OTHERS if name == first or name.startswith("LMCache") else next(ours) for name in table.clients]


def _left(panel: int) -> int:
    return LEFT + panel * (PANEL + FIGURES)


def _bar(x: int, y: int, summary: Summary, scale: float, colour: str) -> list[str]:
    median, low, high = summary.rate * scale, x + summary.low * scale, x + summary.high * scale
    figures = f"{summary.rate:.2f}" + ("" if summary.ratio is None else f" ({summary.ratio:.2f}×)")
    middle = y + BAR // 2
    return [
        f'<rect x="{x}" y="{y}" width="{median:.1f}" height="{BAR}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="#1f2933" stroke-width="1"/>',
        _text(max(high, x + median) + 5, y + BAR - 4, figures, size=10),
    ]


def _text(x: float, y: float, text: str, weight: str = "normal", size: int = 11, anchor: str = "start", fill: str = "#1f2933") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'
