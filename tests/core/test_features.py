"""The features frame, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemq._core.features import (
    MAX_FEATURES_SIZE,
    DeliveryFeature,
    Feature,
    decode_features,
    encode_features,
)
from snakemq.exceptions import SnakeMQBrokenMessage

DELIVERY = DeliveryFeature(window_messages=8192, window_bytes=1 << 24)
PAYLOAD = bytes.fromhex("0001 0008 00002000 01000000")


def test_encoding() -> None:
    assert encode_features({Feature.DELIVERY: DELIVERY.encode()}) == PAYLOAD
    assert encode_features({}) == b""


def test_unknown_features_and_what_a_value_has_beyond_what_is_known_are_passed_over() -> None:
    payload = bytes.fromhex("0007 0002 abcd") + PAYLOAD[:2] + b"\0\x0a" + PAYLOAD[4:] + b"xy"
    features = decode_features(payload)
    assert features[7] == bytes.fromhex("abcd")
    assert DeliveryFeature.decode(features[1]) == DELIVERY


def test_the_last_of_two_counts() -> None:
    assert decode_features(bytes.fromhex("0001 0001 01 0001 0001 02")) == {1: b"\2"}


@pytest.mark.parametrize("size", range(1, len(PAYLOAD)))
def test_a_payload_that_is_cut_off_is_refused(size: int) -> None:
    with pytest.raises(SnakeMQBrokenMessage, match="cut off"):
        decode_features(PAYLOAD[:size])


def test_a_payload_that_is_too_long_is_refused() -> None:
    assert decode_features(bytes(MAX_FEATURES_SIZE)) == {0: b""}
    with pytest.raises(SnakeMQBrokenMessage, match="4100 bytes"):
        decode_features(bytes(4100))


@pytest.mark.parametrize("value", ["", "00000001000000", "0000000000000001", "0000000100000000"])
def test_a_window_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(SnakeMQBrokenMessage, match="delivery"):
        DeliveryFeature.decode(bytes.fromhex(value))


@given(st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=50), max_size=20))
def test_what_is_encoded_is_decoded(features: dict[int, bytes]) -> None:
    assert decode_features(encode_features(features)) == features  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        features = decode_features(payload)
    except SnakeMQBrokenMessage:
        return
    assert sum(4 + len(value) for value in features.values()) <= len(payload)
