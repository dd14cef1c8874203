"""HTML and SVG in which whatever comes from a dataset is text: names and tasks may be anybody's."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Markup(str):
    """A finished piece of HTML. All other strings are escaped where they are put into one."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Any value as text; what cannot be printed is replaced.

    >>> escaped("<b>&")
    '&lt;b&gt;&amp;'
    """
    if isinstance(text, Markup):
        return text
    shown = "".join(letter if letter.isprintable() or letter == "\n" else _REPLACEMENT for letter in str(text))
    return Markup(html.escape(shown))


def element(name: str, *children: object, **attributes: object) -> Markup:
    """An element with its children; a trailing underscore of an attribute's name is dropped, others become hyphens.

    >>> element("p", "1 < 2", class_="note", data_kind='"')
    '<p class="note" data-kind="&quot;">1 &lt; 2</p>'
    """
    named = "".join(f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{named}>{group(*children)}</{name}>")


def group(*children: object) -> Markup:
    """One behind the other.

    >>> group("<", element("b", 1))
    '&lt;<b>1</b>'
    """
    return Markup("".join(map(escaped, children)))


def picture(image: NDArray[np.uint8], *, alt: str, limit: int = 320) -> Markup:
    """An image (H, W, C) within the page itself, at most so many pixels wide."""
    shown = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if shown.width > limit:
        shown = shown.resize((limit, max(1, shown.height * limit // shown.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", optimize=True)
    return png(buffer.getvalue(), alt=alt)


def png(content: bytes, *, alt: str) -> Markup:
    """A PNG file within the page itself."""
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Markup(f'<img alt="{escaped(alt)}" src="{uri}">')


def table(head: Iterable[object], rows: Iterable[Iterable[object]], *, id_: str, numeric: Iterable[int] = ()) -> Markup:
    """A table that scrolls by itself where it is too wide.

    Args:
        head: Titles of the columns.
        rows: Cells.
        id_: Of the table.
        numeric: Columns that are set flush right.
    """
    right = set(numeric)

    def row(kind: str, cells: Iterable[object]) -> Markup:
        classes = [{"class_": "number"} if number in right else {} for number in range(1 << 8)]
        return element("tr", *(element(kind, cell, **found) for cell, found in zip(cells, classes, strict=False)))

    content = element(
        "table", element("thead", row("th", head)), element("tbody", *(row("td", cells) for cells in rows)), id=id_
    )
    return element("div", content, class_="scroll")
