"""The protocol without input and output.

Nothing here knows sockets, threads, clocks, randomness or databases: bytes and
the time come in as arguments, bytes and decisions go out.
"""
