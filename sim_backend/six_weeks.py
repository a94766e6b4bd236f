"""Six weeks of requests to one row: a seeded stand-in for the production load that POLCA (arXiv 2308.12908) reports.

The published facts are statistics, not a recording: 2023-06-21 to 08-02, one inference row, a diurnal pattern without
correlated oscillation, and the largest rises within 2 s and 40 s. The shape is ours, in three layers:

1. A target u(t) in 0..1, the wanted row power as a share of its own highest level:

       u = level / max(level over the six weeks)
       level = (trough + (1 - trough) * day(h) * week(t) * height(t)) * (1 + drift(t)) * (1 + noise(t))
       day(h) = (1 - b + cos x + b cos 2x) / 2,  x = 2 pi (h - peak_hour) / 24,  b = day_harmonic
       week(t) = 1 on weekdays, weekend_ratio at weekends, joined by half a cosine around midnight
       height: seeded normal knots of mean 1, one a day, so that six weeks have one highest day
       drift, noise: seeded normal knots (weekly, half-hourly) joined by half cosines

   Requests per second and server are then `rate_of(u)`: the inverse of the row's steady-state power curve.
2. Bursts: that rate is multiplied by two seeded processes of mean 1, which all servers share: a lognormal one that
   wanders (Ornstein-Uhlenbeck in the logarithm, correlation falling with `burst_tau_s`) and a gamma one that jumps
   (held, and drawn anew at exponential intervals of mean `jump_tau_s`). Independent requests cannot make the
   published rises: they average out over forty servers. Rarely, and at random, a flash adds requests to one second.
3. Requests: Poisson in each second with that rate, uniform within it; class, priority and sizes drawn per request.

Each hour has random streams of its own, so any hour can be made without those before it, in any process.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from policies.errors import ConfigError
from sim_backend.arrivals import BLOCK_ROWS, DAY_S, Arrivals
from sim_backend.result import Vec

SIX_WEEKS_DAYS = 42
"""Length of the published observation."""
HOUR_S = 3600
_STREAM = 2
"""Keeps these random numbers apart from those of recorded traces under the same seed."""
_DRIFT, _NOISE, _BURST, _COUNT, _TIME, _CLASS, _PRIORITY, _PROMPT, _OUTPUT, _DAY, _FLASH = range(11)
_WEEK_S = 7 * DAY_S
_NOISE_KNOT_S = 1800.0


@dataclass(frozen=True, slots=True)
class SixWeeksParams:
    """What decides the load. Unverified: recalled or chosen, not read in the paper; override it if you know better."""

    summarize_share: float = 0.25
    """Share of requests of class Summarize. POLCA's mix, unverified, as are all of the class figures."""
    summarize_prompt_min: float = 2048
    """Fewest prompt tokens; sizes are uniform between fewest and most, both included."""
    summarize_prompt_max: float = 8192
    summarize_output_min: float = 256
    summarize_output_max: float = 512
    summarize_low_share: float = 1.0
    """Share of this class that is low priority."""
    search_share: float = 0.25
    search_prompt_min: float = 512
    search_prompt_max: float = 2048
    search_output_min: float = 1024
    search_output_max: float = 2048
    search_low_share: float = 0.0
    chat_share: float = 0.5
    chat_prompt_min: float = 2048
    chat_prompt_max: float = 4096
    chat_output_min: float = 128
    chat_output_max: float = 2048
    chat_low_share: float = 0.5
    peak_rate_rps: float = 0.10
    """Requests per second and server at the highest level of the target. Unverified: how full the servers were at
    their peak is not published; it decides how many prompts coincide, and so how far single seconds exceed the mean."""
    trough_ratio: float = 0.6
    """Night level over weekday peak level, of row power. Unverified: the paper says "diurnal" and gives no depth."""
    peak_hour: float = 14.0
    """Local hour of the daily peak. Unverified."""
    day_harmonic: float = -0.15
    """Second harmonic of the day; negative: broad days, short nights; -0.25 to 0.25 keeps one peak. Unverified."""
    weekend_ratio: float = 0.75
    """Day amplitude at weekends over that of weekdays. Unverified."""
    midnight_s: float = 21_600.0
    """How long the change between weekday and weekend takes around midnight [s]. Unverified."""
    start_weekday: float = 2
    """0 Monday .. 6 Sunday; 2023-06-21 was a Wednesday."""
    drift_cv: float = 0.015
    """Standard deviation of the level from week to week. Unverified."""
    noise_cv: float = 0.015
    """Standard deviation of the level from half hour to half hour. Unverified."""
    day_cv: float = 0.15
    """Standard deviation of the day's amplitude from day to day. Unverified."""
    flash_per_day: float = 2.0
    """How often, on average, many requests arrive within one second: retries, scheduled jobs. Unverified."""
    flash_requests: float = 0.45
    """Requests of such a second, per server of the fleet. Unverified: the published 2 s rise decides it."""
    burst_cv: float = 0.05
    """Coefficient of variation of the wandering modulation of the rate. Unverified: the published rises decide it."""
    burst_tau_s: float = 60.0
    """Its correlation time [s], at most 300. Unverified: 30 to 120 s is plausible for retries and shared triggers."""
    jump_cv: float = 0.05
    """Coefficient of variation of the jumping modulation of the rate. Unverified: the published rises decide it."""
    jump_tau_s: float = 60.0
    """Mean time between its jumps [s], at most 300. Unverified."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value):
                raise ConfigError(f"workload {field.name}={value} must be a finite number")
            if field.name != "day_harmonic" and value < 0.0:
                raise ConfigError(f"workload {field.name}={value} must not be negative")
            if field.name.endswith(("_share", "_ratio")) and value > 1.0:
                raise ConfigError(f"workload {field.name}={value} must lie between 0 and 1")
            if field.name.endswith("_cv") and value > 3.0:
                raise ConfigError(f"workload {field.name}={value} must be at most 3: above, bursts are all there is")
        self._check_classes()
        if abs(self.day_harmonic) > 0.25:
            raise ConfigError(f"workload day_harmonic={self.day_harmonic} beyond 0.25 gives the day a second peak")
        if self.peak_hour >= 24 or self.start_weekday not in range(7) or self.midnight_s > DAY_S:
            raise ConfigError(
                "workload: peak_hour must be below 24, start_weekday one of 0..6 and midnight_s at most a day"
            )
        for name in ("burst_tau_s", "jump_tau_s"):
            if not 1.0 <= getattr(self, name) <= 300.0:
                raise ConfigError(
                    f"workload {name}={getattr(self, name)} must lie between 1 and 300: bursts are drawn per second, "
                    "and an hour must be long enough to forget the one before the last"
                )

    def _check_classes(self) -> None:
        share = self.summarize_share + self.search_share + self.chat_share
        if abs(share - 1.0) > 1e-9:
            raise ConfigError(f"workload: the shares of summarize, search and chat add up to {share:g}, not to 1")
        for name in CLASSES:
            for size in ("prompt", "output"):
                low, high = getattr(self, f"{name}_{size}_min"), getattr(self, f"{name}_{size}_max")
                if not (1 <= low <= high <= 10_000_000 and low == int(low) and high == int(high)):
                    raise ConfigError(
                        f"workload {name}_{size}_min={low:g}, {name}_{size}_max={high:g}: whole tokens, "
                        "1 <= min <= max <= 10,000,000"
                    )

    def with_overrides(self, overrides: dict[str, float]) -> "SixWeeksParams":
        """The same, some values replaced."""
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise ConfigError(f"workload parameter '{name}' does not exist; there are {', '.join(known)}")
        return replace(self, **overrides)


CLASSES = ("summarize", "search", "chat")


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of the six weeks is run."""

    days: float = float(SIX_WEEKS_DAYS)
    start_day: float = 0.0
    """Days, from the start of the six weeks, at which the run begins; whole hours."""

    def __post_init__(self) -> None:
        if not (0.0 < self.days <= SIX_WEEKS_DAYS and self.start_day >= 0.0):
            raise ConfigError(
                f"days={self.days:g} from day {self.start_day:g}: above 0, within the {SIX_WEEKS_DAYS} days"
            )
        if self.start_day + self.days > SIX_WEEKS_DAYS + 1e-9:
            raise ConfigError(
                f"days={self.days:g} from day {self.start_day:g} end after day {SIX_WEEKS_DAYS}, the last there is"
            )
        if abs(self.start_day * 24 - round(self.start_day * 24)) > 1e-6:
            raise ConfigError(
                f"start_day={self.start_day:g} must fall on a whole hour: random streams are kept per hour"
            )


class SixWeeks:
    """Requests of the six weeks to a row of `servers`, at the same load per server whatever their number."""

    def __init__(
        self,
        params: SixWeeksParams,
        servers: float,
        rate_of: Callable[[Vec], Vec],
        seed: int,
        span: Span | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.params = params
        self._servers = servers
        self._rate_of = rate_of
        self._seed = seed
        span = Span() if span is None else span
        self._start_hour = round(span.start_day * 24)
        self._duration_s = span.days * DAY_S
        self._block_rows = block_rows
        knots = 2 + int(SIX_WEEKS_DAYS * DAY_S / _WEEK_S), 2 + int(SIX_WEEKS_DAYS * DAY_S / _NOISE_KNOT_S)
        self._drift = params.drift_cv * self._random(_DRIFT).standard_normal(knots[0])
        self._noise = params.noise_cv * self._random(_NOISE).standard_normal(knots[1])
        self._days = np.maximum(1.0 + params.day_cv * self._random(_DAY).standard_normal(SIX_WEEKS_DAYS + 2), 0.0)
        self._top = 1.0
        # On a grid of minutes of all six weeks, whichever part is run: a day alone is the same day as in the whole.
        self._top = float(self.target(np.arange(0.0, SIX_WEEKS_DAYS * DAY_S, 60.0)).max())

    @property
    def duration_s(self) -> float:
        """Length of the run."""
        return self._duration_s

    def target(self, since_s: Vec) -> Vec:
        """Wanted row power over its highest level, 0..1, at seconds since the start of the six weeks."""
        params = self.params
        x = 2.0 * np.pi * (since_s / HOUR_S - params.peak_hour) / 24.0
        harmonic = params.day_harmonic
        day = 0.5 * (1.0 - harmonic + np.cos(x) + harmonic * np.cos(2.0 * x))
        amplitude = self._week(since_s) * _join(self._days, since_s / DAY_S + 0.5)
        level = params.trough_ratio + (1.0 - params.trough_ratio) * day * amplitude
        level *= 1.0 + _join(self._drift, since_s / _WEEK_S)
        level *= 1.0 + _join(self._noise, since_s / _NOISE_KNOT_S)
        return np.clip(level / self._top, 0.0, 1.0)

    def _week(self, since_s: Vec) -> Vec:
        """Day amplitude: weekdays 1, weekends lower."""
        params = self.params
        ratio = np.array([1.0, 1.0, 1.0, 1.0, 1.0, params.weekend_ratio, params.weekend_ratio])
        days = since_s / DAY_S + params.start_weekday
        midnight = np.floor(days + 0.5)
        before = ratio[(midnight.astype(np.int64) - 1) % 7]
        after = ratio[midnight.astype(np.int64) % 7]
        width_days = max(params.midnight_s, 1.0) / DAY_S
        passed = np.clip((days - midnight) / width_days + 0.5, 0.0, 1.0)
        level: Vec = before + (after - before) * 0.5 * (1.0 - np.cos(np.pi * passed))
        return level

    def modulation(self, hour: int) -> Vec:
        """The shared bursts, mean 1, in each second of an hour of the six weeks [3600].

        Both processes forget; starting them one hour early leaves nothing of the start (e^-12 at the longest time
        constant allowed), and every hour can be made alone.
        """
        params = self.params
        early, now = self._random(_BURST, hour), self._random(_BURST, hour + 1)
        modulation = np.ones(HOUR_S)
        # The same number of draws whatever the parameters: switching one process off leaves the other as it was.
        normal = np.concatenate([early.standard_normal(HOUR_S), now.standard_normal(HOUR_S)])
        chance = np.concatenate([early.random(HOUR_S), now.random(HOUR_S)])
        if params.burst_cv > 0.0:
            variance = np.log1p(params.burst_cv**2)
            keep = np.exp(-1.0 / params.burst_tau_s)
            normal *= np.sqrt(variance * (1.0 - keep * keep))
            path = accumulate(normal.tolist(), lambda level, push: keep * level + push)
            modulation *= np.exp(np.fromiter(path, np.float64, 2 * HOUR_S)[HOUR_S:] - 0.5 * variance)
        if params.jump_cv > 0.0:
            shape = params.jump_cv**-2
            height = np.concatenate([early.standard_gamma(shape, HOUR_S), now.standard_gamma(shape, HOUR_S)]) / shape
            jumps = chance < -np.expm1(-1.0 / params.jump_tau_s)
            latest = np.maximum.accumulate(np.where(jumps, np.arange(2 * HOUR_S), 0))
            modulation *= height[latest][HOUR_S:]
        return modulation

    def rate_rps(self, hour: int) -> Vec:
        """Requests per second to the whole row, expected in each second of an hour of the six weeks [3600]."""
        middle_s = np.arange(HOUR_S, dtype=np.float64) + (HOUR_S * hour + 0.5)
        per_server = np.asarray(self._rate_of(self.target(middle_s)), dtype=np.float64)
        assert per_server.shape == middle_s.shape
        assert np.isfinite(per_server).all()
        assert (per_server >= 0.0).all()
        return self._servers * (per_server * self.modulation(hour) + self.flashes(hour))

    def flashes(self, hour: int) -> Vec:
        """Requests per server that arrive together, in each second of an hour [3600]."""
        random = self._random(_FLASH, hour)
        struck = random.random(HOUR_S) < self.params.flash_per_day / DAY_S
        return np.where(struck, self.params.flash_requests, 0.0)

    def blocks(self) -> Iterator[Arrivals]:
        """Requests hour by hour, in blocks of whole seconds."""
        hours = int(np.ceil(self._duration_s / HOUR_S))
        for index in range(hours):
            yield from self._hour(index)

    def _hour(self, index: int) -> Iterator[Arrivals]:
        hour, start_s = self._start_hour + index, float(index * HOUR_S)
        counts = self._random(_COUNT, hour).poisson(self.rate_rps(hour))
        if int(counts.max()) > self._block_rows:
            raise ConfigError(
                f"workload: {int(counts.max()):,} requests in one second are more than can be held at once"
            )
        # Numbers drawn in pieces are the same as drawn at once, so the size of blocks does not show.
        streams = [self._random(stream, hour) for stream in (_TIME, _CLASS, _PRIORITY, _PROMPT, _OUTPUT)]
        ends = np.concatenate([[0], np.cumsum(counts)])
        first = 0
        while first < HOUR_S:
            last = int(np.searchsorted(ends, ends[first] + self._block_rows, side="right")) - 1
            block = self._requests(start_s + first, counts[first:last], streams)
            first = last
            inside = int(np.searchsorted(block.arrival_s, self._duration_s))
            if inside < len(block):
                block = Arrivals(
                    block.arrival_s[:inside],
                    block.prompt_tokens[:inside],
                    block.output_tokens[:inside],
                    block.priority[:inside],
                )
            if len(block):
                yield block

    def _requests(self, start_s: float, counts: NDArray[np.int64], streams: list[np.random.Generator]) -> Arrivals:
        """Requests of consecutive seconds, given how many fall in each."""
        total = int(counts.sum())
        time, kind, priority, prompt, output = streams
        arrival_s = np.repeat(start_s + np.arange(len(counts)), counts)
        arrival_s += time.random(total)
        arrival_s.sort()
        bounds = np.cumsum([getattr(self.params, f"{name}_share") for name in CLASSES])[:-1]
        classes = (kind.random(total)[:, None] >= bounds).sum(axis=1)
        low_share = np.array([getattr(self.params, f"{name}_low_share") for name in CLASSES])
        return Arrivals(
            arrival_s,
            self._sizes("prompt", classes, prompt),
            self._sizes("output", classes, output),
            (priority.random(total) >= low_share[classes]).astype(np.int8),
        )

    def _sizes(self, what: str, classes: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int32]:
        low = np.array([getattr(self.params, f"{name}_{what}_min") for name in CLASSES])
        high = np.array([getattr(self.params, f"{name}_{what}_max") for name in CLASSES])
        # Scaled and cut before the offset is added: then even the largest random number stays inside the range.
        above = (random.random(len(classes)) * (high - low + 1.0)[classes]).astype(np.int32)
        sizes: NDArray[np.int32] = low.astype(np.int32)[classes] + above
        return sizes

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(_STREAM, *key)))


def _join(knots: Vec, position: Vec) -> Vec:
    """Knots at 0, 1, 2 .. joined by half cosines: smooth, and never beyond its knots."""
    before = np.clip(np.floor(position).astype(np.int64), 0, len(knots) - 2)
    passed = 0.5 * (1.0 - np.cos(np.pi * np.clip(position - before, 0.0, 1.0)))
    return knots[before] + (knots[before + 1] - knots[before]) * passed
