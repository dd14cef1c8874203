"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "shard"), counted(0, "episode"), counted(95_658, "episode")
    ('1 shard', '0 episodes', '95,658 episodes')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
