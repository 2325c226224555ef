"""
The table: each scenario with its levels and what they require.

A level that is in the table with no more than `ALWAYS` is there for its figures.
"""

from collections.abc import Callable, Mapping

from attrs import field, frozen

from tests.faults import breaks, clients, ends, silences, tls
from tests.faults.levels import ACKED, LYING, RELP, SENT, UNREPLAYED, Level
from tests.faults.required import (
    ALWAYS,
    Requirement,
    Row,
    all_answered,
    duplicates_bounded,
    duplicates_within_window,
    none_duplicated,
    none_early,
    none_lost,
    noticed_within,
    recovered_within,
)
from tests.faults.stage import Size, Stage, staged

_KEPT = (none_lost, duplicates_bounded)
_KEPT_BY_RELP = (none_lost, duplicates_within_window)
_PRINTED: tuple[Requirement, ...] = ()


def _required(
    requirements: Mapping[Level, tuple[Requirement, ...]],
) -> Mapping[str, tuple[Requirement, ...]]:
    return {level.name: required for level, required in requirements.items()}


@frozen
class Scenario:
    """
    @ivar required: what each level has to show, by its name, beyond `ALWAYS`.
    """

    name: str
    play: Callable[[Stage], None]
    required: Mapping[str, tuple[Requirement, ...]] = field(converter=_required)

    @property
    def sentence(self) -> str:
        return " ".join((self.play.__doc__ or "").split())

    def problems(self, row: Row) -> list[str]:
        """What is wrong with its row."""
        # What lies is held to what the default level promises.
        level = ACKED.name if row.level == LYING.name else row.level
        said = [requirement(row) for requirement in (*ALWAYS, *self.required[level])]
        return [*row.breaches, *filter(None, said)]


def play(scenario: Scenario, level: Level, size: Size) -> Row:
    """
    @raise Missing: something that the scenario needs is not there.
    """
    with staged(scenario.name, level, size) as stage:
        scenario.play(stage)
        return stage.row


_HOLE = (*_KEPT, none_early, noticed_within(4.0), recovered_within(2.0))
_ANY_LEVEL = (SENT, ACKED)

SCENARIOS = [
    Scenario("idle-close", breaks.closes_idle, {SENT: _PRINTED, ACKED: _KEPT}),
    Scenario(
        "restart",
        breaks.restarted,
        {SENT: _PRINTED, UNREPLAYED: _PRINTED, ACKED: _KEPT},
    ),
    Scenario(
        "kill", breaks.killed, {SENT: _PRINTED, UNREPLAYED: _PRINTED, ACKED: _KEPT}
    ),
    Scenario(
        "rsyslogd-restart",
        breaks.rsyslogd_restarted,
        {SENT: _PRINTED, ACKED: _PRINTED, RELP: _KEPT_BY_RELP},
    ),
    Scenario(
        "rsyslogd-kill",
        breaks.rsyslogd_killed,
        {SENT: _PRINTED, ACKED: _PRINTED, RELP: _KEPT_BY_RELP},
    ),
    Scenario("black-hole-out", silences.swallowed, {SENT: _PRINTED, ACKED: _HOLE}),
    Scenario(
        "black-hole-back", silences.unacknowledged, {SENT: _PRINTED, ACKED: _HOLE}
    ),
    Scenario(
        "halt",
        silences.halted,
        {SENT: _PRINTED, ACKED: _KEPT},
    ),
    Scenario("flap", breaks.flaps, {SENT: _PRINTED, ACKED: _KEPT}),
    Scenario(
        "refuse-then-heal",
        silences.refused_then_healed,
        dict.fromkeys(_ANY_LEVEL, (none_lost, none_duplicated)),
    ),
    Scenario(
        "halt-then-heal",
        silences.halted_then_healed,
        # The connection that stalls may have confirmed something before.
        {SENT: (none_lost, none_duplicated), ACKED: _KEPT},
    ),
    Scenario(
        "sigterm",
        ends.drained,
        dict.fromkeys((*_ANY_LEVEL, RELP), (none_lost, none_duplicated, all_answered)),
    ),
    Scenario(
        "sigkill",
        ends.killed,
        dict.fromkeys((*_ANY_LEVEL, RELP), (none_lost, none_duplicated)),
    ),
    Scenario("several", breaks.one_of_several_dies, {SENT: _PRINTED, ACKED: _KEPT}),
    Scenario(
        "client-gone",
        clients.gone,
        dict.fromkeys(_ANY_LEVEL, (none_lost, none_duplicated)),
    ),
    Scenario(
        "retry",
        clients.retried,
        dict.fromkeys(_ANY_LEVEL, (none_lost, none_duplicated)),
    ),
    Scenario("tls-restart", tls.restarted, {SENT: _PRINTED, ACKED: _KEPT}),
    Scenario("tls-kill", tls.killed, {SENT: _PRINTED, ACKED: _KEPT}),
    *(
        Scenario(
            name,
            play_case,
            dict.fromkeys(_ANY_LEVEL, (none_lost, none_duplicated)),
        )
        for name, play_case in tls.CASES.items()
    ),
]

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
