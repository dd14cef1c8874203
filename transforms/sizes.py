"""Sizes in bytes, for a person."""

from __future__ import annotations


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
