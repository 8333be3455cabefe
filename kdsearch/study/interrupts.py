"""Ctrl-C and SIGTERM: work ends where it can, nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from kdsearch.errors import Interrupted


class Interrupts:
    """What a signal does. Outside `handing_to` it raises Interrupted at once; inside, its number goes to the work, which ends by itself, since
    Ray makes a SystemError of whatever is raised inside its calls. A second signal does not wait."""

    def __init__(self) -> None:
        self._signum: int | None = None
        self._work: Callable[[int], None] | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self._work is None or self._signum is not None:
            raise Interrupted(signum)
        self._signum = signum
        self._work(signum)

    def install(self) -> None:
        """Again after Ray has started, which installs a handler of its own that exits at once."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self)
            signal.signal(signal.SIGTERM, self)

    def check(self) -> None:
        """
        Raises:
            Interrupted: a signal came.
        """
        if self._signum is not None:
            raise Interrupted(self._signum)

    @contextlib.contextmanager
    def handing_to(self, work: Callable[[int], None] = lambda _: None) -> Iterator[None]:
        """Signals go to the work for the length of the block; by default they wait for `check`."""
        self._work = work
        try:
            yield
        finally:
            self._work = None


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Handle both signals for the length of the block, and put the handlers of before back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interrupts = Interrupts()
    interrupts.install()
    try:
        yield interrupts
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
