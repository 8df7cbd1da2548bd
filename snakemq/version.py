"""Version numbers: of this package and of the wire protocol."""

from __future__ import annotations

from typing import Final

#: Version of the package.
VERSION: Final = "2.0.0.dev0"

#: The protocol version every peer announces; 1.6 refuses any other number, so
#: extensions are negotiated by frames of new types and never by raising it.
PROTOCOL_VERSION: Final = 1
