"""Sizes in bytes, as people read and write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_text(size_bytes: int) -> str:
    """Writes a size with a decimal unit.

    >>> size_text(999), size_text(1_500_000), size_text(2_340_000_000_000)
    ('999 B', '1.5 MB', '2.3 TB')
    """
    size, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"


def parse_size(text: str) -> int | None:
    """Reads a size with a unit; None where it is none.

    >>> parse_size("256MB"), parse_size("1.5 GiB"), parse_size("7"), parse_size("much")
    (256000000, 1610612736, 7, None)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if not match or match[2].upper() not in _UNITS:
        return None
    return int(float(match[1]) * _UNITS[match[2].upper()])
