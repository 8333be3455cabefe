"""What can go wrong for a user, by exit code. Each message says what, where (file, key, row) and what to do, in at most ten lines."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class KdsearchError(Exception):
    """A problem that the person at the keyboard can mend; shown without a traceback."""

    exit_code = 1


class VerdictNo(KdsearchError):
    """The answer is no: verification failed, nothing fits, every trial failed."""

    exit_code = 1


class InputError(KdsearchError):
    """The study file, the data, the teacher or a plugin is wrong."""

    exit_code = 2


class PluginError(InputError):
    """A plugin cannot be used; the message names it and the fix."""


class StateError(KdsearchError):
    """The study's folder refuses: another run owns it, or it was made from something else."""

    exit_code = 3


class EnvironmentProblem(KdsearchError):
    """The machine refuses: folder not writable, disk full, cluster unreachable, an extra not installed."""

    exit_code = 4


class Interrupted(KdsearchError):
    """A signal ended the work; what was acknowledged is kept, and the same command goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted ({signal.Signals(signum).name}): nothing is lost, the same command goes on")
        self.exit_code = 128 + signum


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' or, when nothing is near, ' Known: a, b, c.'"""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(names)}." if names else ""


def near(word: str, known: Iterable[str]) -> str:
    """did_you_mean, or nothing where no word is near."""
    return did_you_mean(word, known).partition(" Known: ")[0]
