"""Named curves of breakers, relays and UPS; what a site file may say instead of points of its own.

A standard says how long a device must hold and by when it must have tripped. Only the first is a promise to the load,
so a standard alone allows little: an overload beyond the guaranteed-hold current needs the manufacturer's own points.
"""

from dataclasses import dataclass

from policies.models.protection import Edge, InverseTimeEdge, TripEdge

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class NamedEdge:
    """A device by its standard or table."""

    points: tuple[tuple[float, float], ...] = ()
    hold_ratio: float = 1.0
    relay: tuple[float, float, float] | None = None
    """k, exponent and constant of an inverse-time relay."""
    source: str = ""

    def edge(self, cooling_s: float, pickup_ratio: float, time_multiplier: float) -> Edge:
        """The edge; pickup and multiplier are a relay's settings, and mean nothing to the others."""
        if self.relay is not None:
            k, exponent, constant_s = self.relay
            return InverseTimeEdge(k, exponent, constant_s, cooling_s, time_multiplier, pickup_ratio)
        return TripEdge(self.points, cooling_s, self.hold_ratio, stepped=True, beyond_s=0.0)


_RELAY = "IEC 60255 / IEEE C37.112 constants as in DEIF PPM-300 designer's handbook, p. 70; 5 % faster at most"
_UPS_RANGE = "shortest times of a market range: 103 % 10 min, 125 % 30 s, 150 % 10 s (studylib.net/doc/18189699)"

NAMED: dict[str, NamedEdge] = {
    "ul-489": NamedEdge(source="UL 489: 100 % must hold; 135 % and 200 % are limits by which it must have tripped"),
    "iec-60898-1": NamedEdge(
        ((1.13, HOUR_S),), source="IEC 60898-1: no trip at 1.13 In for 1 h (Schneider Electric FAQ FA369327)"
    ),
    "iec-60947-2": NamedEdge(
        ((1.05, HOUR_S),), source="IEC 60947-2: no trip at 1.05 In for 1 h (Schneider Electric FAQ FA369327)"
    ),
    "iec-si": NamedEdge(relay=(0.14, 0.02, 0.0), source=f"standard inverse; {_RELAY}"),
    "iec-vi": NamedEdge(relay=(13.5, 1.0, 0.0), source=f"very inverse; {_RELAY}"),
    "iec-ei": NamedEdge(relay=(80.0, 2.0, 0.0), source=f"extremely inverse; {_RELAY}"),
    "ieee-mi": NamedEdge(relay=(0.0515, 0.02, 0.114), source=f"moderately inverse; {_RELAY}"),
    "ieee-vi": NamedEdge(relay=(19.61, 2.0, 0.491), source=f"very inverse; {_RELAY}"),
    "ieee-ei": NamedEdge(relay=(28.2, 2.0, 0.1217), source=f"extremely inverse; {_RELAY}"),
    "ups-least": NamedEdge(((1.03, 600.0), (1.25, 30.0), (1.5, 10.0)), source=_UPS_RANGE),
    "ups-liebert-610": NamedEdge(
        ((1.25, 600.0), (1.5, 30.0)), 1.04, source="Liebert Series 610 operation manual, 3.3.3: 104 % continuous"
    ),
    "ups-huawei-2000-g": NamedEdge(
        ((1.10, 600.0), (1.30, 60.0), (1.50, 3.0), (2.0, 0.5)),
        1.05,
        source="Huawei UPS2000-G 3 kVA user manual, p. 82, to 35 C; about half above. 2 x ends our > 150 %",
    ),
}
"""By the name a site file uses."""
