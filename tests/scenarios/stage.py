"""The players of a transcript: agents, controllers and messages that arrive only when the script says so."""

from dataclasses import replace

import numpy as np

from policies.commands import Command, EngageBrake, GrantLeases, Publish, Refuse, ReleaseBrake, SetCaps
from policies.events import BudgetSet, Leased, LeaseVector, Measured, Metered, Restarted, Sampled, Ticked
from tests.cores import HARD, MAX_MHZ, OUT_OF_BAND, Agents, Controller, Wish, agents, fleet_of, model_of, one_tree

COMMAND_LATENCY_S = {"in-band": 1.0, "out-of-band": 40.0}


class Stage:
    """Executes the lines of one transcript; every method named after a verb returns what there is to see."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.agents: Agents = agents(1)
        self.path = "in-band"
        self.budget_w = 0.0
        self.wish = Wish(1)
        self.controllers: dict[str, Controller] = {}
        self.messages: dict[str, Sampled | LeaseVector] = {}
        self.hung_w: dict[int, float] = {}
        self.drawn_w = np.zeros(1)
        self._sample: Sampled | None = None
        self._oob_seq = 0
        self._shown: dict[str, str] = {}

    def play(self, line: str) -> list[str]:
        """One line of the script."""
        name, *words = line.split()
        named = [w for w in words if "=" in w]
        plain = [w for w in words if "=" not in w]
        given = dict(w.split("=", 1) for w in named)
        verb = getattr(self, f"do_{name}", None)
        if verb is None:
            raise ValueError(f"no such line in a transcript: {line}")
        seen: list[str] = verb(*plain, **given)
        return seen

    # -- setting the stage ----------------------------------------------------------------------------------------

    def do_fleet(self, count: str, **given: str) -> list[str]:
        n = int(count)
        self.path = given.get("path", "in-band")
        self.budget_w = float(given.get("budget", "16000"))
        self.agents = agents(n, failsafe_w=float(given.get("failsafe", "4000")))
        self.wish = Wish(n)
        self.drawn_w = np.full(n, 2_000.0)
        return self._agents(self.agents.set_initial())

    def do_controller(self, name: str, **given: str) -> list[str]:
        """A controller begins; its epoch is the number in its name."""
        n = self.agents.n
        base = HARD if self.path == "in-band" else OUT_OF_BAND
        budget_w = np.array([float(given.get("budget", self.budget_w))])
        config = replace(base, budget_w=budget_w, epoch=int(name[1:]))
        failsafe_w = self.agents.config.failsafe_w
        fleet = fleet_of(n, failsafe_w=failsafe_w.tolist(), cap_latency_s=COMMAND_LATENCY_S[self.path])
        self.controllers[name] = Controller(
            config, fleet, one_tree(n), self.wish, model_of(n), np.linspace(0.9, 0.1, n)
        )
        return []

    def do_wish(self, who: str, *what: str) -> list[str]:
        """What the policy proposes from now on: watts, or clocks as 1200MHz, or `none`."""
        for word in what:
            array = (self.wish.cap_mhz if word.endswith("MHz") else self.wish.cap_w).copy()
            array[self._rows(who)] = np.inf if word == "none" else float(word.removesuffix("MHz"))
            if word.endswith("MHz"):
                self.wish.cap_mhz = array
            else:
                self.wish.cap_w = array
        return []

    def do_draw(self, who: str, watts: str) -> list[str]:
        """What servers draw from now on, unless their GPUs hold them lower; `?` for a sensor that says nothing."""
        self.drawn_w[self._rows(who)] = np.nan if watts == "?" else float(watts)
        return []

    def do_hang(self, who: str, **given: str) -> list[str]:
        """GPUs keep the limit they have, or the one that is given."""
        for row in self._rows(who):
            self.hung_w[int(row)] = float(given.get("at", self.agents.cap_w[row]))
        return []

    def do_heal(self, who: str) -> list[str]:
        for row in self._rows(who):
            self.hung_w.pop(int(row), None)
        return []

    # -- time and readings ----------------------------------------------------------------------------------------

    def do_at(self, time_s: str) -> list[str]:
        self.now_s = float(time_s)
        return self._agents(self.agents.step(Ticked(), self.now_s)) if self.path == "in-band" else []

    def do_measure(self, who: str = "all", **given: str) -> list[str]:
        """Agents read their devices and send a sample, kept under the name given."""
        rows = self._rows(who)
        enforced_w = self._limits_w()
        drawn_w = np.minimum(self.drawn_w, enforced_w)[rows]
        if "limit" in given:
            enforced_w[rows] = np.nan if given["limit"] == "?" else float(given["limit"])
        clock_mhz = self.agents.cap_mhz[rows].copy()
        seen = self._agents(self.agents.step(Measured(rows, drawn_w, clock_mhz, enforced_w[rows]), self.now_s))
        assert self._sample is not None
        self.messages[given.get("as", "sample")] = self._sample
        return seen

    def do_meter(self, watts: str, **given: str) -> list[str]:
        reading = Metered(0, float(watts), float(given.get("age", "2")))
        return self._all_controllers(reading)

    def do_sample(self, *, clock: str, drawn: str) -> list[str]:
        """A management controller's reading of every server."""
        n = self.agents.n
        self._oob_seq += 1
        none = np.zeros(n, dtype=np.int64)
        clocks = np.array([np.nan if c == "?" else float(c) for c in (clock.split(",") * n)[:n]])
        drawn_w = np.full(n, float(drawn))
        sample = Sampled(slice(None), none, none + self._oob_seq, 0.0, drawn_w, clocks, np.full(n, np.nan), none, none)
        return self._all_controllers(sample)

    # -- messages -------------------------------------------------------------------------------------------------

    def do_tick(self, name: str, **given: str) -> list[str]:
        """A controller decides; its leases wait under the name given."""
        return self._controller(name, self.controllers[name].step(Ticked(), self.now_s), given.get("as", "lease"))

    def do_deliver(self, message: str, *words: str, **given: str) -> list[str]:
        """A message arrives, perhaps not for the first time: a sample `to c1`, a lease to the servers it names."""
        content = self.messages[message]
        if isinstance(content, LeaseVector):
            refused = self.agents.refused
            seen = self._agents(self.agents.step(Leased(content), self.now_s))
            turned_down = self.agents.refused - refused
            return [*seen, f"{turned_down} refused"] if turned_down else seen
        to = words[-1]
        aged = replace(content, age_s=float(given.get("age", "0")))
        return self._controller(to, self.controllers[to].step(aged, self.now_s), "")

    def do_run(self, seconds: str, *words: str) -> list[str]:
        """Whole seconds in which nothing is lost or late: measure, deliver, tick, deliver.

        Shows what changes; `quietly` only what stands at the end.
        """
        names = words[0].split(",")
        seen: list[str] = []
        for _ in range(int(seconds)):
            self.now_s += 1.0
            lines = self._agents(self.agents.step(Ticked(), self.now_s)) + self.do_measure()
            sample = self.messages["sample"]
            assert isinstance(sample, Sampled)
            for name in names:
                lines += self._controller(name, self.controllers[name].step(sample, self.now_s), "")
                lines += self._controller(name, self.controllers[name].step(Ticked(), self.now_s), "lease")
                lease = self.messages["lease"]
                assert isinstance(lease, LeaseVector)
                lines += self._agents(self.agents.step(Leased(lease), self.now_s))
            seen += [f"at {self.now_s:g}  {line}" for line in lines]
        return self.do_caps() if "quietly" in words else seen

    def do_restart(self, who: str, **given: str) -> list[str]:
        """Agent processes begin anew, remembering what is given."""
        rows = self._rows(who)
        kept_w = np.full(rows.size, float(given.get("cap", "nan")))
        epoch = np.full(rows.size, int(given.get("epoch", "0")))
        event = Restarted(rows, self.agents.incarnation[rows] + 100, kept_w, epoch)
        return self._agents(self.agents.step(event, self.now_s))

    def do_budget(self, watts: str) -> list[str]:
        return self._all_controllers(BudgetSet(0, float(watts)))

    def do_caps(self) -> list[str]:
        """What stands at every agent."""
        return [self._cap(row) for row in range(self.agents.n)]

    # -- what there is to see -------------------------------------------------------------------------------------

    def _rows(self, who: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.intp]]":
        if who == "all":
            return np.arange(self.agents.n)
        return np.array([int(name[1:]) for name in who.split(",")], dtype=np.intp)

    def _limits_w(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        limit_w = self.agents.cap_w.copy()
        for row, held_w in self.hung_w.items():
            limit_w[row] = held_w
        return limit_w

    def _cap(self, row: int) -> str:
        mhz = float(self.agents.cap_mhz[row])
        clock = f", {mhz:.0f} MHz" if mhz < MAX_MHZ else ""
        return f"s{row}: cap {self.agents.cap_w[row]:.0f} W{clock}"

    def _agents(self, commands: list[Command]) -> list[str]:
        seen = []
        for command in commands:
            match command:
                case SetCaps(rows=rows, because=because):
                    seen += [f"{self._cap(int(row))}  ({because})" for row in np.arange(self.agents.n)[rows]]
                case Publish(sample):
                    self._sample = sample
        return seen

    def _all_controllers(self, event: BudgetSet | Metered | Sampled) -> list[str]:
        return [
            line
            for name, core in self.controllers.items()
            for line in self._controller(name, core.step(event, self.now_s), "")
        ]

    def _controller(self, name: str, commands: list[Command], save_as: str) -> list[str]:
        core, seen = self.controllers[name], []
        for command in commands:
            match command:
                case GrantLeases(lease):
                    self.messages[save_as] = lease
                    caps = [
                        f"s{row} {self._lease_text(lease, k)}"
                        for k, row in enumerate(np.arange(self.agents.n)[lease.rows])
                    ]
                    seen += self._if_new(f"{name} leases", ", ".join(caps))
                case SetCaps(rows=rows, cap_w=cap_w, cap_mhz=cap_mhz, because=because):
                    for row, watts, mhz in zip(np.arange(self.agents.n)[rows], cap_w, cap_mhz, strict=True):
                        cap = "no cap" if np.isinf(watts) else f"{watts:.0f} W"
                        seen.append(f"{name} sends s{row} {cap}, {mhz:.0f} MHz  ({because})")
                case EngageBrake(because=because):
                    seen.append(f"{name} brakes  ({because})")
                case ReleaseBrake(because=because):
                    seen.append(f"{name} releases the brake  ({because})")
                case Refuse(because=because):
                    seen.append(f"{name} refuses  ({because})")
        if self.path == "in-band":
            charges = ", ".join(f"s{row} {watts:.0f} W" for row, watts in enumerate(core.charge_w()))
            seen += self._if_new(f"{name} charges", charges)
        return seen

    def _lease_text(self, lease: LeaseVector, k: int) -> str:
        clock = f" at {lease.cap_mhz[k]:.0f} MHz" if lease.cap_mhz[k] < MAX_MHZ else ""
        return f"{lease.cap_w[k]:.0f} W{clock}"

    def _if_new(self, what: str, text: str) -> list[str]:
        if self._shown.get(what) == text:
            return []
        self._shown[what] = text
        return [f"{what} {text}"]
