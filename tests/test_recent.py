from __future__ import annotations

import pytest

from predecode.transforms.recent import Recent


class _Thing:
    def __init__(self, name: str, closed: list[str]) -> None:
        self.name = name
        self._closed = closed

    def close(self) -> None:
        self._closed.append(self.name)


def test_the_least_recently_used_is_closed() -> None:
    closed: list[str] = []
    things: Recent[str, _Thing] = Recent(lambda name: _Thing(name, closed), limit=2)
    first = things["a"]
    assert things["b"].name == "b"
    assert things["a"] is first
    assert things["c"].name == "c"
    assert closed == ["b"]
    assert things["a"] is first
    things.close()
    assert sorted(closed) == ["a", "b", "c"]
    assert things["a"] is not first


def test_what_cannot_be_opened_is_not_kept() -> None:
    def fail(name: str) -> _Thing:
        raise FileNotFoundError(name)

    things: Recent[str, _Thing] = Recent(fail, limit=1)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="a"):
            things["a"]
    things.close()
