"""A field station behind a router that lets nobody in.

It dials out to the office. Once there is a connection it makes no difference
who dialled: the office calls the station's methods and sends it messages that
have waited for it. Prints::

    office: the station is not connected yet
    station got: new schedule
    office: the station measures 21.5 degrees
"""

from __future__ import annotations

from snakemq import Peer


class Thermometer:
    def read(self) -> float:
        return 21.5


# The office has a public address and listens there; here it is this machine.
with Peer("office", listen=0) as office:
    office.send("station", "new schedule")
    if not office.is_connected("station"):
        print("office: the station is not connected yet")

    # The station listens nowhere. After a broken connection it dials again,
    # and it notices within a minute that a router has forgotten the connection.
    with Peer(
        "station", connect=office.addresses, keepalive=30, serve={"thermometer": Thermometer()}
    ) as station:
        print("station got:", station.receive().text)
        degrees = office.proxy("station", "thermometer").read()
        print(f"office: the station measures {degrees} degrees")
