"""The least of many changing values, in steps of the logarithm of their number.

A tree of `size` leaves (a power of two) is a slice of 2 * size words that begins at `base`: word 1 is the root, the
children of word i are 2i and 2i + 1, the leaves begin at word `size`. Without branches on the values, so a change
costs its few cache hits and no misprediction.
"""

import numpy as np
from numpy.typing import NDArray

from sim_backend.compiled import inlined

Tree = NDArray[np.float64] | NDArray[np.int64]


def leaves(count: int) -> int:
    """How many leaves a tree over `count` values has."""
    return 1 << max(count - 1, 1).bit_length()


@inlined
def replace(tree: Tree, base: int, size: int, leaf: int, value: float) -> None:
    """Give one leaf a new value."""
    node = size + leaf
    tree[base + node] = value
    while node > 1:
        value = min(value, tree[base + (node ^ 1)])
        node >>= 1
        tree[base + node] = value


@inlined
def least(tree: Tree, base: int, size: int) -> int:
    """The leaf with the least value; of equals the first."""
    value = tree[base + 1]
    node = 1
    while node < size:
        node <<= 1
        if tree[base + node] != value:
            node += 1
    return node - size
