"""The program ``openssl``, called for what the standard library can't do.

Works with OpenSSL since 1.1.1 and with LibreSSL: only options that all of them
have, and extensions in a file.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Final

from snakemq.cli._exit import CommandError

__all__ = ["OpenSsl", "quote_value"]

_MISSING: Final = (
    "the program 'openssl' is not installed, or not in the PATH. Install the package 'openssl' "
    "(on Windows it comes with Git, and with 'winget install ShiningLight.OpenSSL.Light'), or "
    "make the files on another machine"
)

#: How much of its complaints is shown, in characters.
_COMPLAINT: Final = 2000


class OpenSsl:
    """Calls ``openssl``. No shell is involved.

    :param directory: where it works; file names without a directory are there
    :raises CommandError: it is not installed
    """

    def __init__(self, directory: Path) -> None:
        program = shutil.which("openssl")
        if program is None:
            raise CommandError(_MISSING)
        self._program = program
        self._directory = directory

    def make_key(self, name: str) -> None:
        """Make a private key on the curve P-256, for the eyes of its owner only."""
        self._run(
            *("genpkey", "-algorithm", "EC", "-out", name),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-pkeyopt", "ec_param_enc:named_curve"),
        )
        (self._directory / name).chmod(0o600)

    def make_authority(self, config: str, key: str, cert: str, *, days: int, serial: int) -> None:
        """Make a certificate that is signed with its own key."""
        self._run(
            *("req", "-new", "-x509", "-sha256", "-config", config, "-extensions", "extensions"),
            *("-key", key, "-out", cert, "-days", str(days), "-set_serial", hex(serial)),
        )
        self._check_pair(key, cert)

    def make_certificate(
        self,
        config: str,
        key: str,
        cert: str,
        *,
        ca_key: Path,
        ca_cert: Path,
        days: int,
        serial: int,
    ) -> None:
        """Make a certificate that an authority signs."""
        self._run("req", "-new", "-sha256", "-config", config, "-key", key, "-out", "request")
        self._run(
            *("x509", "-req", "-sha256", "-in", "request", "-out", cert),
            # Absolute, so that no path is taken for an option or a URI.
            *("-CA", str(ca_cert.absolute()), "-CAkey", str(ca_key.absolute())),
            *("-extfile", config, "-extensions", "extensions"),
            *("-days", str(days), "-set_serial", hex(serial)),
        )
        self._check_pair(key, cert)
        self._run("verify", "-CAfile", str(ca_cert.absolute()), cert)

    def _check_pair(self, key: str, cert: str) -> None:
        """Be sure that it has made what it was told to, and not the half of it."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._directory / cert, self._directory / key)
        except OSError as exc:
            raise CommandError(
                f"{self._program} was called, and what it made can't be used: {exc}"
            ) from exc
        # With any umask others can read a certificate at most.
        path = self._directory / cert
        path.chmod(path.stat().st_mode & 0o644)

    def _run(self, *args: str) -> None:
        # With no standard input it can't wait for somebody who is not there; it asks
        # for the password of an authority's key at the terminal.
        done = subprocess.run(
            [self._program, *args],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            output = done.stdout.decode(errors="replace").strip()[-_COMPLAINT:]
            raise CommandError(
                f"'openssl {args[0]}' failed with status {done.returncode}: "
                f"{output or 'it does not say why'}"
            )


def quote_value(text: str) -> str:
    """Text as a value in a configuration file of openssl; without control characters."""
    # Nothing is expanded between quotation marks, and no comment begins there.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
