"""The message."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from snakemq.message import FLAG_PERSISTENT, MAX_UUID_LENGTH, Message


def test_defaults() -> None:
    message = Message(b"data")
    assert (message.data, message.ttl, message.flags) == (b"data", 0, 0)
    assert isinstance(message.ttl, float)
    assert len(message.uuid) == MAX_UUID_LENGTH == 16
    assert FLAG_PERSISTENT == 1


def test_uuids_are_unique() -> None:
    assert len({Message(b"").uuid for _ in range(10_000)}) == 10_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_uuids_of_its_own() -> None:
    program = """if True:
        import os
        from snakemq.message import Message
        Message(b"")
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, Message(b"").uuid)
            os._exit(0)
        assert os.read(reader, 16)[:8] != Message(b"").uuid[:8]
        os.wait()
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_given_uuid_is_cut_and_an_empty_one_made_up() -> None:
    assert Message(b"", uuid=b"abc").uuid == b"abc"
    assert Message(b"", uuid=b"x" * 20).uuid == b"x" * 16
    assert len(Message(b"", uuid=b"").uuid) == 16


@pytest.mark.parametrize("ttl", [-1, float("nan"), -0.001])
def test_a_ttl_that_makes_no_sense_is_refused(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        Message(b"", ttl=ttl)


def test_an_infinite_ttl_is_none() -> None:
    assert Message(b"", ttl=float("inf")).ttl is None
    assert Message(b"", ttl=None).ttl is None


@pytest.mark.parametrize("flags", [-1, 1 << 32])
def test_flags_must_fit_into_the_frame(flags: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        Message(b"", flags=flags)


@pytest.mark.parametrize("data", ["text", bytearray(b"x"), None, 5])
def test_only_bytes_are_data(data: Any) -> None:
    with pytest.raises(TypeError, match=f"must be bytes, not {type(data).__name__}"):
        Message(data)


def test_only_bytes_are_a_uuid() -> None:
    with pytest.raises(TypeError, match="uuid must be bytes"):
        Message(b"", uuid="abc")  # type: ignore[arg-type]


def test_programs_may_hang_attributes_on_a_message() -> None:
    message = Message(b"")
    message.mine = 5  # type: ignore[attr-defined]
    assert message.mine == 5  # type: ignore[attr-defined]


def test_a_log_shows_no_payload() -> None:
    text = repr(Message(b"secret", ttl=5, uuid=b"\1\2"))
    assert "secret" not in text
    assert "0102" in text
    assert "len=6" in text
