"""The electrical tree as parent-index arrays, and the budgets as rows of a sparse [constraint, server] matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.arrays import Ints, Vec
from policies.errors import ConfigError


class Topology:
    """Domains (site > row > rack) with one parent each, and the domain every server hangs on.

    Parents stand before their children, so that one backward pass rolls watts up.
    """

    def __init__(self, names: Sequence[str], parents: Sequence[int], server_domain: Ints) -> None:
        """Check the tree.

        Args:
            names: of the domains, unique.
            parents: index of each domain's parent, -1 for a root, always below the child's own index.
            server_domain: index of the domain that feeds each server [n_servers].
        """
        for child, parent in enumerate(parents):
            if not -1 <= parent < child:
                raise ConfigError(f"domain '{names[child]}' stands before its parent: list parents first")
        self.names = tuple(names)
        self.parents = tuple(parents)
        self.server_domain = np.asarray(server_domain, dtype=np.int64)
        if self.server_domain.size and not 0 <= self.server_domain.min() <= self.server_domain.max() < len(names):
            raise ConfigError("a server hangs on a domain that does not exist")

    def roll_up(self, server_w: Vec) -> Vec:
        """Watts of every domain [n_domains] from watts of every server [n_servers]."""
        total: Vec = np.bincount(self.server_domain, weights=server_w, minlength=len(self.names)).astype(np.float64)
        for child in range(len(self.parents) - 1, -1, -1):
            if self.parents[child] >= 0:
                total[self.parents[child]] += total[child]
        return np.asarray(total)

    def servers_below(self, domain: int) -> Ints:
        """Indices of the servers fed through `domain`, directly or through its children."""
        below = {domain}
        for child in range(domain + 1, len(self.parents)):
            if self.parents[child] in below:
                below.add(child)
        return np.flatnonzero(np.isin(self.server_domain, sorted(below))).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Constraints:
    """Budgets that hold at once, each over its own servers with its own shares.

    Compressed rows: constraint `c` covers `columns[start[c]:start[c + 1]]`. A share is the part of a server's watts
    that counts here: 1 on a tree, between on A and B feeds, and 1 again on the feed that survives.
    """

    names: tuple[str, ...]
    start: Ints
    columns: Ints
    share: Vec

    @staticmethod
    def of_tree(topology: Topology, budgeted: Sequence[int]) -> "Constraints":
        """One constraint for each of the `budgeted` domains, share 1 for every server below."""
        members = [topology.servers_below(domain) for domain in budgeted]
        for domain, below in zip(budgeted, members, strict=True):
            if below.size == 0:
                raise ConfigError(f"domain '{topology.names[domain]}' has a budget and no servers")
        start = np.concatenate(([0], np.cumsum([m.size for m in members]))).astype(np.int64)
        columns = np.concatenate(members) if members else np.empty(0, np.int64)
        names = tuple(topology.names[domain] for domain in budgeted)
        return Constraints(names, start, columns, np.ones(columns.size))

    @property
    def count(self) -> int:
        """How many budgets there are."""
        return len(self.names)

    def total(self, server_w: Vec) -> Vec:
        """Watts that count in each constraint [n_constraints]."""
        if len(self.names) == 1 and self.columns.size == server_w.size:
            return np.array((float(np.dot(self.share, server_w[self.columns])),))
        return np.add.reduceat(server_w[self.columns] * self.share, self.start[:-1])

    def servers(self, constraint: int) -> Ints:
        """Indices of the servers that count in `constraint`."""
        return self.columns[self.start[constraint] : self.start[constraint + 1]]

    def shares(self, constraint: int) -> Vec:
        """Their shares, in the same order."""
        return self.share[self.start[constraint] : self.start[constraint + 1]]

    def tightest(self, factor: Vec, n_servers: int) -> Vec:
        """Per server, the least `factor` [n_constraints] of the constraints it counts in; 1 where it counts in none."""
        result = np.ones(n_servers)
        np.minimum.at(result, self.columns, np.repeat(factor, np.diff(self.start)))
        return result
