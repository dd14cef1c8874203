"""A few open things at a time: the least recently used is closed when there would be too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Closeable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Frees what it holds."""
        ...


KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT", bound=Closeable)


class Recent(Generic[KeyT, ValueT]):
    """Keeps the most recently used values open. For one thread."""

    def __init__(self, open_value: Callable[[KeyT], ValueT], *, limit: int) -> None:
        """Opens nothing yet.

        Args:
            open_value: Makes the value of a key.
            limit: How many values are open at most, at least 1.
        """
        self._open_value = open_value
        self._limit = limit
        self._values: OrderedDict[KeyT, ValueT] = OrderedDict()

    def __getitem__(self, key: KeyT) -> ValueT:
        """The open value of a key; valid until `limit` other keys have been asked for."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        while len(self._values) >= self._limit:
            self._values.popitem(last=False)[1].close()
        self._values[key] = self._open_value(key)
        return self._values[key]

    def close(self) -> None:
        """Closes everything; what is asked for afterwards is opened anew."""
        while self._values:
            self._values.popitem()[1].close()
