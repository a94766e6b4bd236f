"""The least of many changing values, in steps of the logarithm of their number.

A tree of `size` leaves (a power of two) is a slice of `size` values of `keys` and one of `size` indices of `winners`,
both beginning at `base`: winner 1 is the leaf with the least key of all, the children of node i are 2i and 2i + 1, and
below the last nodes lie the leaves themselves. Nodes keep who won, not with what: the least is read at the root, and a
change looks at one rival per level, none of which depends on the one before. No branch depends on a value, so a change
costs its few cache hits and no misprediction.
"""

import numpy as np
from numpy.typing import NDArray

from sim_backend.compiled import inlined

Keys = NDArray[np.float64] | NDArray[np.int64]


def leaves(count: int) -> int:
    """How many leaves a tree over `count` values has."""
    return 1 << max(count - 1, 1).bit_length()


def play(keys: Keys) -> NDArray[np.int32]:
    """The winners of a whole tree over `keys`, whose number is a power of two."""
    size = len(keys)
    winners = np.zeros(size, np.int32)
    rivals = np.arange(size)
    while len(rivals) > 1:
        left, right = rivals[::2], rivals[1::2]
        rivals = np.where(keys[right] < keys[left], right, left)
        winners[len(rivals) : 2 * len(rivals)] = rivals
    return winners


@inlined
def replay(keys: Keys, winners: NDArray[np.int32]) -> None:
    """Decide all matches anew, after many keys have changed."""
    node = len(keys) - 1
    while node > 0:
        left, right = 2 * node - len(keys), 2 * node + 1 - len(keys)
        if left < 0:
            left, right = int(winners[2 * node]), int(winners[2 * node + 1])
        winners[node] = left + ((right - left) & -int(keys[right] < keys[left]))
        node -= 1


@inlined
def replace(keys: Keys, winners: NDArray[np.int32], base: int, size: int, leaf: int, key: float) -> None:
    """Give one leaf a new key; of equal keys the leaf that comes first wins."""
    keys[base + leaf] = key
    winner = leaf
    rival = leaf ^ 1
    node = (size + leaf) >> 1
    while node > 0:
        rival_key = keys[base + rival]
        ahead = rival - winner
        beaten = (rival_key < key) | ((rival_key == key) & (ahead < 0))
        # A choice by arithmetic: spelled as one, it would be compiled to a branch that nobody can predict.
        winner += ahead & -int(beaten)
        key = min(key, rival_key)
        winners[base + node] = winner
        rival = int(winners[base + (node ^ 1)])
        node >>= 1
