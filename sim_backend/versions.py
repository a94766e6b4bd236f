"""Versions that figures and journals depend on."""

import platform
from importlib.metadata import version

import numpy as np


def versions() -> dict[str, str]:
    """Of this program, and of what it computes with."""
    return {
        "overwatt": version("overwatt"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": version("numba"),
    }
