"""What finished trials hand over, held beside the driver until it fetches it: a worker's own objects would die with the worker.

In a module of its own, and of bytes alone: the actor's process then imports neither torch nor transformers, which takes seconds on every core
and would keep the first trial waiting.
"""

from __future__ import annotations

import ray


@ray.remote(num_cpus=0)
class Sink:
    """Pickled results, by trial and attempt."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], bytes] = {}

    def put(self, key: tuple[int, int], result: bytes) -> None:
        self._held[key] = result

    def take(self, key: tuple[int, int]) -> bytes | None:
        return self._held.pop(key, None)
