"""The reference is complete: every exception, every public module, every term."""

from __future__ import annotations

import pkgutil
import re

import pytest

import snakemq
from snakemq import exceptions
from snakemq.rpc import errors as rpc_errors
from tests.docs.runner import ROOT

DOCS = ROOT / "docs"

#: Not for programs to import from.
NOT_AN_API = {"snakemq.cli"}

#: Deeper down, and imported by their own names.
MODULES_OF_THEIR_OWN = [
    "snakemq.storage.mongodb",
    "snakemq.storage.sqla",
    "snakemq.storage.sqlite",
    "snakemq.testing.link_contract",
    "snakemq.testing.storage_contract",
]

#: In design and code, each has one name.
TERMS = {
    "acknowledgement", "authentication", "authorization", "backoff", "backpressure", "connector",
    "counter", "dead letter", "features", "fingerprint", "frame", "handshake", "high-water mark",
    "identifier", "in flight", "inbox", "jitter", "keepalive", "link", "listener", "message",
    "outbox", "packet", "peer", "proof", "proxy", "queue", "redelivered", "redelivery", "refusal",
    "relay", "rendezvous", "serializer", "shared secret", "signal", "storage", "stranger", "stream",
    "throttle", "time to live", "unconfirmed", "window",
}  # fmt: skip


def text_of(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def public_modules() -> list[str]:
    """A package shows what is in its modules; the other modules are those of this package."""
    names = [info.name for info in pkgutil.iter_modules(snakemq.__path__, "snakemq.")]
    public = [name for name in names if "._" not in name and name not in NOT_AN_API]
    return [*public, *MODULES_OF_THEIR_OWN]


def exception_names() -> list[str]:
    named = [(module, name) for module in (exceptions, rpc_errors) for name in module.__all__]
    return [name for module, name in named if isinstance(getattr(module, name), type)]


@pytest.mark.parametrize("name", exception_names())
def test_every_exception_has_a_row(name: str) -> None:
    assert re.search(rf"^   \* - ``{name}``$", text_of("reference/errors.rst"), re.MULTILINE)


@pytest.mark.parametrize("module", public_modules())
def test_every_public_module_is_in_the_reference(module: str) -> None:
    documented = re.findall(
        r"^\.\. automodule:: (\S+)$", text_of("reference/api.rst"), re.MULTILINE
    )
    assert module in documented


def test_what_the_package_itself_has_is_listed() -> None:
    listed = text_of("reference/api.rst").partition("from ``snakemq`` itself")[2]
    names = set(re.findall(r"``(\w+)``", listed.partition("They are described")[0]))
    assert names | {"__version__"} == set(snakemq.__all__)


def test_every_term_is_in_the_glossary() -> None:
    terms = set(re.findall(r"^   (\S.*)$", text_of("glossary.rst"), re.MULTILINE))
    assert terms >= TERMS
