"""Ray: a session of our own on this machine, or an existing cluster; every node checked before anything is paid for.

Ray is imported inside the functions: it reads how to authenticate from the environment once, when it is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from kdsearch.errors import EnvironmentProblem
from kdsearch.io.text import first_line

_CHECKED = ("kdsearch", "torch", "transformers")
_NODE_CHECK_SECONDS = 60

# Set while Ray runs, put back afterwards: Ray reads its settings from the environment alone.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the study itself proposes no more than there are places for
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_EMBEDDED = {"RAY_worker_niceness": "0"}  # Ray's default of 15 starves a search beside any other work: first student after 36 s, not 8


_TOKEN = secrets.token_hex(32)  # one for the process: Ray keeps the first that it sees
_ours = False  # whether Ray was imported under it


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _own_authentication() -> dict[str, str]:
    """A token that only this process and its children know: the embedded session listens on a port that other users may reach.

    Ray reads the setting when it is imported. Where somebody imported it before us, its own default stands: a token in the home folder.
    """
    global _ours
    _ours = _ours or "ray" not in sys.modules
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN} if _ours else {}


@contextlib.contextmanager
def session(address: str | None, object_bytes: int) -> Iterator[None]:
    """Ray for the length of the block.

    Args:
        address: of a cluster's head (host:port); None: a session of our own, on the loopback interface, without a dashboard, that never
            joins another and that no other user of this machine can join.
        object_bytes: what the study will put into the object store.

    Raises:
        EnvironmentProblem: the cluster cannot be reached or one of its nodes cannot work with this process.
    """
    if address is not None and address.startswith("ray://"):
        raise EnvironmentProblem(
            f"--address {address}: a Ray client cannot run a search: give HOST:PORT of the head, such as 10.0.0.1:6379"
        )
    with _environment(_QUIET | (_EMBEDDED | _own_authentication() if address is None else {})):
        import ray

        logging.getLogger("ray").setLevel(logging.WARNING)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns of callbacks that take half a second
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
        mask = os.umask(0o077)  # Ray writes its token files with the process's mask
        try:
            if address is None:
                ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    include_dashboard=False,
                    object_store_memory=object_bytes + (512 << 20),
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RaySystemError) as problem:
            place = f"--address {address}" if address else "Ray on this machine"
            raise EnvironmentProblem(
                f"{place}: cannot be reached or started ({first_line(problem)}): "
                f"check that a head runs there with Ray {ray.__version__} on Python {platform.python_version()}"
            ) from problem
        finally:
            os.umask(mask)
        try:
            if address is not None:
                check_nodes()
            yield
        finally:
            ray.shutdown()


@dataclass(frozen=True)
class NodeFacts:
    """What a node has, or why it cannot work."""

    host: str
    versions: dict[str, str]  # package -> version; missing ones are not there


def facts() -> NodeFacts:
    """Of the process that calls it."""
    versions = {}
    for package in _CHECKED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return NodeFacts(socket.gethostname(), versions)


def check_nodes() -> list[NodeFacts]:
    """Run a small task on each node: it must have this program, at this version.

    Raises:
        EnvironmentProblem: names each node that cannot work, and why.
    """
    import ray

    own = facts()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    probe = ray.remote(num_cpus=0)(facts)
    asked = {node["NodeManagerAddress"]: probe.options(scheduling_strategy=_on(node["NodeID"])).remote() for node in nodes}
    found, wrong = [], []
    for address, answer in asked.items():
        try:
            node: Any = ray.get(answer, timeout=_NODE_CHECK_SECONDS)
        except Exception as problem:
            wrong.append(
                f"node {address}: {str(problem).strip().splitlines()[-1][:200]}: install kdsearch {own.versions.get('kdsearch')} there"
            )
            continue
        found.append(node)
        for package, version in own.versions.items():
            if node.versions.get(package) != version:
                has = node.versions.get(package, "nothing")
                wrong.append(f"node {address}: has {package} {has}, this machine {version}: install the same version")
    if wrong:
        raise EnvironmentProblem("\n".join(wrong[:10]))
    if not found:
        raise EnvironmentProblem("the cluster has no node with CPUs: start one with `ray start --address HEAD:6379`")
    return found


def places(cpu: int, gpu: float) -> int:
    """How many trials fit on the live nodes at once."""
    import ray

    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            by_cpu = int(node["Resources"].get("CPU", 0) // cpu)
            total += min(by_cpu, int(node["Resources"].get("GPU", 0) / gpu + 1e-9)) if gpu else by_cpu
    return total


def _on(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


def on_this_node() -> Any:
    """The scheduling strategy of an actor that must live beside the driver."""
    import ray

    return _on(ray.get_runtime_context().get_node_id())
