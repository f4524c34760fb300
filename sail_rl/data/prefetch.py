"""Loads items ahead of need in threads: pictures are decoded and processed while the model generates or trains.

Decoding, resizing and array arithmetic release Python's lock, so threads use several cores. Unlike processes they need
no copies of the pixels, and can't outlive the process that started them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


class Prefetcher(Generic[Key, Item]):
    """Gives `load(key)` for each key, loaded ahead where `prefetch` has announced the key.

    Only the time changes: an item doesn't depend on whether it was announced, and an error of `load` is raised by
    `get`. The threads are daemons, so that a stuck file can't keep a process alive.

    Args:
        load: makes an item; it is called in several threads.
        describe: names the source of a key in errors.
        threads: number of threads.
        ahead: most items that are loaded before anyone asks for them, which bounds the memory.
        seconds: longest time that `get` waits for an item that a thread is loading.
    """

    def __init__(
        self,
        load: Callable[[Key], Item],
        *,
        describe: Callable[[Key], str] = str,
        threads: int = 4,
        ahead: int = 64,
        seconds: float = 600.0,
    ) -> None:
        self._load, self._describe, self._seconds, self._ahead = load, describe, seconds, ahead
        self._changed = threading.Condition()
        self._announced: dict[Key, Future[Item]] = {}
        self._queue: deque[Key] = deque()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def prefetch(self, keys: Iterable[Key]) -> None:
        """Load these items in the background, in this order; each should be asked for once."""
        with self._changed:
            new = [key for key in dict.fromkeys(keys) if key not in self._announced]
            self._announced |= {key: Future() for key in new}
            self._queue += new
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()
            self._changed.notify_all()

    def get(self, key: Key) -> Item:
        """The item, which is then no longer kept here.

        Raises:
            RuntimeError: `load` failed with another exception than a ValueError, which is raised as it is, or it takes
                too long.
        """
        with self._changed:
            future = self._announced.pop(key, None)
            if key in self._queue:  # not begun: waiting for a free thread could take forever
                self._queue.remove(key)
                future = None
            self._changed.notify_all()
        try:
            return future.result(self._seconds) if future else self._load(key)
        except ValueError:
            raise
        except TimeoutError as error:
            if future and not future.done():
                raise RuntimeError(
                    f"{self._describe(key)}: not loaded within {self._seconds:g} s; check the disk or network that its "
                    "pictures are on"
                ) from error
            raise RuntimeError(f"{self._describe(key)}: {error!r}") from error
        except Exception as error:
            raise RuntimeError(f"{self._describe(key)}: {error!r}") from error

    def close(self) -> None:
        """End the threads and forget all items."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._announced.clear()
            self._changed.notify_all()

    def __enter__(self) -> Prefetcher[Key, Item]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._queue and self._loaded < self._ahead))
                if self._closed:
                    return
                key = self._queue.popleft()
                future = self._announced[key]
            try:
                future.set_result(self._load(key))
            except BaseException as error:
                future.set_exception(error)
            del future  # the item must not stay in memory until this thread's next one

    @property
    def _loaded(self) -> int:
        """Number of items that are loaded, or being loaded, and that no one has asked for."""
        return len(self._announced) - len(self._queue)
