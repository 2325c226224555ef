"""
The delivery levels, each with the variables that ask for it.
"""

from collections.abc import Mapping

from attrs import Factory, frozen


@frozen(eq=False)
class Level:
    """
    @ivar module: what is run in the place of ``python -m logiss``.
    @ivar scheme: in front of the address in FORWARD_DEST.
    """

    name: str
    variables: Mapping[str, str] = Factory(dict)
    module: str = "logiss"
    scheme: str = ""


SENT = Level("sent", {"DELIVERY": "sent"})
ACKED = Level("acked", {"DELIVERY": "acked"})
UNREPLAYED = Level("acked-no-replay", {"DELIVERY": "acked", "REPLAY_BYTES": "0"})
RELP = Level("relp", scheme="relp://")
#: Not a level: the build that the scenarios have to catch.
LYING = Level("lying", {"DELIVERY": "acked"}, module="tests.faults.lying")

LEVELS = {level.name: level for level in (SENT, ACKED, UNREPLAYED, RELP, LYING)}

#: The levels that are logiss's own.
BUILT = (SENT, ACKED, UNREPLAYED, RELP)
