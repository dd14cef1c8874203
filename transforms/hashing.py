"""Hashes that decide what is written where. Changing one makes every existing output foreign: a breaking change.

`hash()` differs between processes and numpy's generators between versions; blake2b over canonical JSON does neither.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII.

    >>> canonical_json({"b": 1, "a": [None, True]})
    b'{"a":[null,true],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """32 hexadecimal digits that stand for a JSON value."""
    return blake2b(canonical_json(value), digest_size=16).hexdigest()


def order_key(*parts: int | str) -> bytes:
    """8 bytes to sort by: a seeded, uniform order over stable ids.

    >>> order_key(0, 17, 64) == order_key(0, 17, 64), order_key(0, 17, 64) == order_key(1, 17, 64)
    (True, False)
    """
    return blake2b(canonical_json(parts), digest_size=8).digest()


def fraction(*parts: int | str) -> float:
    """A number in [0, 1), uniform over ids: below a threshold it stays below it whatever else is there."""
    return int.from_bytes(order_key(*parts), "big") / (1 << 64)
