"""The servers out of Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Final

from benchmarks.environments import Unavailable
from benchmarks.servers import mosquitto, nats, rabbitmq

__all__ = ["install_missing"]

#: By the name of the package, and of the service that comes with it.
_SERVERS: Final[dict[str, Callable[[], str]]] = {
    "rabbitmq-server": rabbitmq.find_server,
    "nats-server": nats.find_server,
    "mosquitto": mosquitto.find_server,
}

#: Seconds that apt may take.
_TIMEOUT: Final = 600.0


def install_missing() -> list[str]:
    """Install the servers that are not there.

    They are then services of the system, too. Those that start are stopped:
    each run has servers of its own, and others must not be in its way. To have
    them started with the system is left to Debian's defaults.

    :return: the packages that were installed
    :raises Unavailable: it is not possible here; the message says why
    """
    missing = [package for package in _SERVERS if not _is_there(package)]
    if not missing:
        return []
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if shutil.which("apt-get") is None:
        raise Unavailable(f"this system has no apt-get to install {', '.join(missing)} with")
    if os.geteuid() != 0:
        raise Unavailable(f"only root may do that: {' '.join(command)}")
    _apt("apt-get", "update")
    _apt(*command)
    for package in missing:
        # Fails where no services run, as in containers.
        subprocess.run(["service", package, "stop"], capture_output=True, check=False)
    return missing


def _is_there(package: str) -> bool:
    try:
        _SERVERS[package]()
    except Unavailable:
        return False
    return True


def _apt(*command: str) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{' '.join(command)}: not within {exc.timeout:g} seconds") from exc
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
