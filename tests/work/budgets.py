"""What may be counted on each path, at most. See test_budgets.py."""

from __future__ import annotations

from typing import Final

__all__ = ["BUDGETS"]

BUDGETS: Final[dict[str, dict[str, float]]] = {
    "small": {
        "caller: Python calls": 5.006,
        "caller: C calls": 8.001,
        "sender's loop: Python calls": 1.149,
        "sender's loop: C calls": 6.13,
        "receiver's loop: Python calls": 2.075,
        "receiver's loop: C calls": 8.083,
        "caller: system calls for 1,000": 0,
        "sender's loop: system calls for 1,000": 4,
        "receiver's loop: system calls for 1,000": 4,
    },
    "small, batches": {
        "caller: Python calls": 13.43,
        "caller: C calls": 17.21,
        "sender's loop: Python calls": 1.159,
        "sender's loop: C calls": 21.13,
        "receiver's loop: Python calls": 2.075,
        "receiver's loop: C calls": 8.083,
        "caller: system calls for 1,000": 0,
        "sender's loop: system calls for 1,000": 4,
        "receiver's loop: system calls for 1,000": 4,
    },
    "large": {
        "caller: Python calls": 11.1,
        "caller: C calls": 15.66,
        "sender's loop: Python calls": 126.5,
        "sender's loop: C calls": 161.6,
        "receiver's loop: Python calls": 94.08,
        "receiver's loop: C calls": 101,
        "caller: system calls for 20": 0,
        "sender's loop: system calls for 20": 100,
        "receiver's loop: system calls for 20": 150,
    },
    "durable": {
        "caller: Python calls": 46.27,
        "caller: C calls": 38.07,
        "sender's loop: Python calls": 7,
        "sender's loop: C calls": 29.7,
        "receiver's loop: Python calls": 8.033,
        "receiver's loop: C calls": 13.73,
        "commits for 30": 33,
    },
    "durable, batches": {
        "caller: Python calls": 14.44,
        "caller: C calls": 23.3,
        "sender's loop: Python calls": 2.046,
        "sender's loop: C calls": 25.82,
        "receiver's loop: Python calls": 6.456,
        "receiver's loop: C calls": 11.4,
        "commits for 1,024": 12,
    },
    "durable receive": {
        "caller: Python calls": 13.17,
        "caller: C calls": 17.08,
        "sender's loop: Python calls": 1.726,
        "sender's loop: C calls": 21.5,
        "receiver's loop: Python calls": 30.87,
        "receiver's loop: C calls": 41.73,
        "commits for 1,024": 1042,
    },
    "one message": {
        "caller: Python calls": 11,
        "altogether: Python calls": 164.8,
        "altogether: rings of the bell": 2,
        "altogether: system calls": 11,
    },
    "one call": {
        "caller: Python calls": 38,
        "altogether: Python calls": 196,
        "altogether: rings of the bell": 1,
        "altogether: system calls": 10,
    },
    "a burst of messages": {
        "caller: system calls for 1,000": 41,
        "alice's loop: system calls for 1,000": 48,
        "bob's loop: system calls for 1,000": 46,
        "rings of the bell for 1,000": 11,
        "altogether: Python calls": 7.427,
    },
    "durable, 16 threads": {
        "commits for 128": 35.33,
    },
    "rest": {
        "alice's loop: passes in a minute": 2.101,
        "bob's loop: passes in a minute": 2.101,
    },
    "one call, stepped": {
        "callers: Python calls": 34,
        "alice's loop: Python calls": 102,
        "bob's loop: Python calls": 112,
        "workers: Python calls": 40,
        "alice's loop: sends and receives for 1": 2,
        "bob's loop: sends and receives for 1": 2,
    },
    "16 calls at once, stepped": {
        "callers: Python calls": 20.19,
        "alice's loop: Python calls": 18.3,
        "bob's loop: Python calls": 25.5,
        "workers: Python calls": 26,
        "alice's loop: sends and receives for 16": 4,
        "bob's loop: sends and receives for 16": 4,
    },
    "memory, a message of 1 MiB": {
        "sender: of the payload": 1.3,
        "receiver: of the payload": 2.2,
    },
    "memory, a message of 64 MiB": {
        "sender: of the payload": 1.25,
        "receiver: of the payload": 1.25,
    },
    "memory, backlog": {
        "bytes for a message of 100": 180.3,
    },
    "memory, idle connections": {
        "bytes for each": 6250,
    },
    "system calls, durable": {
        "syncs of the disk": 1,
        "all": 40,
    },
    "system calls, a durable batch": {
        "syncs of the disk": 1,
        "all": 570,
    },
    "system calls of one message": {
        "caller": 1,
        "alice's loop": 13,
        "bob's loop": 11,
    },
    "system calls of one call": {
        "caller": 2,
        "bob's loop": 14,
        "worker": 2,
        "alice's loop": 13,
    },
}
