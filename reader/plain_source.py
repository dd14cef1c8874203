"""What a certificate asks of a source that is read plainly, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from predecode.reader.plain_images import Pixels


@dataclass(frozen=True, slots=True)
class PlainEpisode:
    """The rows of one episode; its frames are read when they are asked for.

    Attributes:
        index: `episode_index`.
        numbers: Per number feature (num_frames, *item_shape), of its item dtype.
        texts: Per text feature num_frames strings.
    """

    index: int
    numbers: Mapping[str, NDArray[Any]]
    texts: Mapping[str, Sequence[str]]

    @property
    def num_frames(self) -> int:
        """Rows."""
        return len(self.numbers["frame_index"])


class PlainReader(Protocol):
    """Reads episodes. For one thread, and cheapest when they are asked for in the order in which they lie."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def episode(self, index: int) -> PlainEpisode:
        """All values of an episode but its images.

        Raises:
            DataError: there is no such episode, a frame of it is missing, or a value cannot be read.
            OSError: storage fails.
        """
        ...

    def frames(self, episode: PlainEpisode, camera: str, numbers: Sequence[int]) -> Iterator[Pixels]:
        """Images of frames, which must be ascending and distinct: (H, W, C) each.

        Raises:
            DataError: one cannot be read.
            OSError: storage fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class PlainSource:
    """A source, opened: what it says of itself, and how to read it.

    Attributes:
        fps: Frames per second.
        specs: Per feature, by its name in the source and in the order of an item's columns: dtype and shape as
            an info.json declares them.
        texts: Names of the texts that are no features, "task" first.
        lengths: Per episode its rows.
        open_reader: Makes a reader, which opens nothing yet.
    """

    fps: float
    specs: Mapping[str, Mapping[str, Any]]
    texts: tuple[str, ...]
    lengths: Mapping[int, int]
    open_reader: Callable[[], PlainReader]
