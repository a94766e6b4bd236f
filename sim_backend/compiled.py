"""Compile functions once per machine and version of the sources, and keep the result in the user's cache."""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np

Args = ParamSpec("Args")
Result = TypeVar("Result")

HERE = Path(__file__).parent


def _load_numba_without_blas() -> None:
    """Keep numba from importing scipy.linalg, a tenth of a second at every start, for matrix products nobody makes."""
    blas, its_user = "scipy.linalg", "numba.np.arraymath"
    if blas in sys.modules or its_user in sys.modules:
        return
    sys.modules[blas] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        importlib.import_module(its_user)
    finally:
        del sys.modules[blas]


def source_digest() -> str:
    """Names all that compiled code depends on; numba itself looks only at the file of the function it compiles."""
    digest = hashlib.sha256(f"numba {numba.__version__} numpy {np.__version__}".encode())
    sources = [*HERE.parent.glob("policies/models/*.py"), *HERE.rglob("*_kernel.py")]
    sources += [HERE / name for name in ("compiled.py", "histogram.py", "params.py", "pools/layout.py")]
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled code of this version of the sources is kept; NUMBA_CACHE_DIR moves it."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given:
        return Path(given) / source_digest()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "overwatt" / "numba" / source_digest()


def not_compiled() -> bool:
    """Whether the first call will have to compile, which takes a while."""
    return not any(cache_folder().rglob("*.nbi"))


def _use_cache() -> bool:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):
        # No home, or a read-only one (a hardened service): compile in each process.
        return False
    if not usable:
        return False
    # Read by numba when a function is decorated.
    vars(numba.config)["CACHE_DIR"] = str(folder)
    return True


_load_numba_without_blas()
_CACHED = _use_cache()


def compiled(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """An entry into compiled code, called from Python.

    Division by zero follows IEEE instead of raising (no branch per division); no fast-math and no threads, so that
    the same inputs give the same bytes.
    """
    return cast("Callable[Args, Result]", numba.njit(error_model="numpy", cache=_CACHED)(function))


def inlined(function: Callable[Args, Result]) -> Callable[Args, Result]:
    """A function called from compiled code only; its state arrays cost nothing to pass because it is inlined.

    It works on arrays that its caller holds and makes none (making one is refused when it is compiled). So references
    to them need not be counted, which numba otherwise does atomically at every use of a row, in half the plant's time.
    """
    options: dict[str, Any] = {"_nrt": False}
    return cast("Callable[Args, Result]", numba.njit(error_model="numpy", forceinline=True, **options)(function))
