"""Which of the options of a call hold, before and after they are changed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from snakemq.rpc.options import UNSET, CallOptions
from tests.layers.rpc_fakes import InThread, Side


@pytest.mark.parametrize("level", range(3))
def test_what_is_changed_anywhere_holds_for_the_next_call(level: int) -> None:
    client = CallOptions(1, True)
    proxy = CallOptions(parent=client)
    method = CallOptions(parent=proxy)
    assert (method.timeout, method.wait_for_peer) == (1, True)
    changed = (client, proxy, method)[level]
    changed.timeout = 2
    assert (method.timeout, method.wait_for_peer) == (2, True)
    changed.wait_for_peer = False
    assert (method.timeout, method.wait_for_peer) == (2, False)


def test_the_nearest_one_wins() -> None:
    client = CallOptions(1, True)
    proxy = CallOptions(2, parent=client)
    method = CallOptions(wait_for_peer=False, parent=proxy)
    client.timeout = 3
    assert (method.timeout, method.wait_for_peer) == (2, False)
    proxy.timeout = None
    assert method.timeout is None


def test_nothing_is_said_anywhere() -> None:
    options = CallOptions(parent=CallOptions(UNSET, UNSET))
    assert (options.timeout, options.wait_for_peer) == (None, True)


def test_a_copy_is_on_its_own_but_has_the_same_parent() -> None:
    client = CallOptions(1, True)
    method = CallOptions(5, parent=client)
    copy = method.copy()
    method.timeout = 6
    client.wait_for_peer = False
    assert (copy.timeout, copy.wait_for_peer) == (5, False)


def test_calls_follow_the_options_of_their_client() -> None:
    side = Side()
    with pytest.raises(Exception, match="is not connected"):
        side.proxy.read.with_options(timeout=0)()
    side.client.options.timeout = 0
    with pytest.raises(Exception, match="is not connected"):
        side.proxy.read()
    side.client.options.timeout = 60
    side.client.options.wait_for_peer = False
    with pytest.raises(Exception, match="is not connected"):
        side.proxy.read()
    side.client.close()


def test_any_change_is_seen_by_whoever_asks_after_it() -> None:
    """Threads change options of the same client, each those of its own method."""
    client = CallOptions(None, True)

    def change_and_look(seed: int) -> None:
        chance = random.Random(seed)
        method = CallOptions(parent=CallOptions(parent=client))
        for number in range(500):
            timeout: Any = chance.choice([None, number])
            method.timeout = timeout
            known = method.known
            if known[0] is not method.root.revision:  # as a call asks
                known = method.resolve()
            assert known[1:] == (timeout, True)

    for thread in [InThread(change_and_look, seed) for seed in range(4)]:
        thread.result()
