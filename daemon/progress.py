"""A progress bar where somebody watches, silence elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
"""Takes the share done, 0..1, and what is being done."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield _silent
        return
    # Imported here: nothing is drawn when output is redirected, and the import would be paid all the same.
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda done, doing: bar.update(task, completed=done, description=doing)


def _silent(done: float, doing: str) -> None:
    """Nobody watches."""
