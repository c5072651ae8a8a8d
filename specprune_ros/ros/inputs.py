"""Matching of inputs by stamp. Plain Python: stamps are integer nanoseconds, payloads anything."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_stamp_of = itemgetter(0)


class History(Generic[T]):
    """The newest items of one input, in the order of their stamps."""

    def __init__(self, depth: int) -> None:
        self._items: list[tuple[int, T]] = []
        self._depth = depth

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return iter(self._items)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest item, or None."""
        return self._items[-1][0] if self._items else None

    @property
    def last(self) -> T | None:
        """The newest item, or None."""
        return self._items[-1][1] if self._items else None

    def add(self, stamp: int, item: T) -> bool:
        """Insert an item; one with the same stamp is replaced. Returns False if one fell out."""
        at = bisect_left(self._items, stamp, key=_stamp_of)
        if at < len(self._items) and self._items[at][0] == stamp:
            self._items[at] = (stamp, item)
        else:
            self._items.insert(at, (stamp, item))
        if len(self._items) > self._depth:
            del self._items[0]
            return False
        return True

    def nearest(self, stamp: int) -> tuple[int, T] | None:
        """The item whose stamp is nearest, the older one of two as near; None if empty."""
        at = bisect_left(self._items, stamp, key=_stamp_of)
        around = self._items[max(at - 1, 0): at + 1]
        return min(around, key=lambda entry: abs(entry[0] - stamp), default=None)

    def drop_until(self, stamp: int) -> int:
        """Drop the items up to a stamp, it included; returns how many."""
        count = bisect_right(self._items, stamp, key=_stamp_of)
        del self._items[:count]
        return count

    def drop_after(self, stamp: int) -> int:
        """Drop the items later than a stamp; returns how many."""
        at = bisect_right(self._items, stamp, key=_stamp_of)
        count = len(self._items) - at
        del self._items[at:]
        return count

    def clear(self) -> None:
        self._items.clear()


@dataclass(frozen=True)
class ImageSet:
    """One picture of each camera, taken at about one time.

    stamp: of the newest picture, ns. images: camera -> payload, in the order of the cameras.
    """

    stamp: int
    images: Mapping[str, Any]


class ImageSynchronizer:
    """Puts pictures of several cameras together where their stamps agree within ``slop`` (ns).

    Each picture is used once. With equal stamps the result does not depend on the order of arrival
    across cameras. Not thread-safe.
    """

    def __init__(self, cameras: Sequence[str], slop: int, depth: int = 32) -> None:
        self.cameras = tuple(cameras)
        self.slop = slop
        #: Pictures of the first camera that never found partners.
        self.unmatched = 0
        self._waiting: dict[str, History] = {camera: History(depth) for camera in cameras}
        self._used: dict[str, int] = {}  # stamp of the last picture that went into a set

    def add(self, camera: str, stamp: int, image: Any) -> ImageSet | None:
        """Take a picture; returns the set that it completes, if it does.

        A picture that is not newer than the one last used of its camera is ignored.
        """
        if stamp <= self._used.get(camera, stamp - 1):
            return None
        if not self._waiting[camera].add(stamp, image) and camera == self.cameras[0]:
            self.unmatched += 1
        matches = {name: self._waiting[name].nearest(stamp) for name in self.cameras}
        matches[camera] = (stamp, image)
        if any(match is None for match in matches.values()):
            return None
        stamps = [match[0] for match in matches.values()]
        if max(stamps) - min(stamps) > self.slop:
            return None
        for name, (used, _) in matches.items():
            dropped = self._waiting[name].drop_until(used)
            self._used[name] = used
            if name == self.cameras[0]:
                self.unmatched += dropped - 1
        return ImageSet(max(stamps), {name: match[1] for name, match in matches.items()})

    def allow_again(self) -> None:
        """Accept pictures with the stamps of the last set once more (its query failed)."""
        self._used.clear()

    def clear(self) -> None:
        """Forget every picture; the count stays."""
        self._used.clear()
        for waiting in self._waiting.values():
            waiting.clear()

    def forget_after(self, stamp: int) -> None:
        """Forget what is later than a stamp: time has gone back to it."""
        for name, waiting in self._waiting.items():
            waiting.drop_after(stamp)
            if self._used.get(name, stamp) > stamp:
                del self._used[name]
