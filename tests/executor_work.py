"""Functions that the tests of executors have done in other processes, some of which die of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transferscope.errors import TaskError


def square(number: int) -> tuple[int, int]:
    """The square, and the process that found it."""
    return number**2, os.getpid()


def surroundings(number: int) -> dict[str, Any]:
    """What a worker sees of the machine."""
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}


def die_once(path: str) -> str:
    """Killed the first time, for which the file at this path stands."""
    if first(Path(path)):
        die()
    return Path(path).name


def die_always(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("x")
    die()


def refuse(name: str) -> None:
    raise TaskError(f"task {name!r} is wrong")


def stumble(name: str) -> None:
    raise ZeroDivisionError(f"{name} over nothing")


def node(number: int) -> str:
    """The Ray node that this worker is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def first(path: Path) -> bool:
    """Whether nobody was here before."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def perform_dying(unit: Any) -> tuple[str, ...]:
    """`units.perform`, killed once in the middle of each kind of unit: a tuning that has saved its state, an
    extraction in its second trial, a block that has a cell, features of one prompt of two.
    """
    from transferscope import measurement, pieces, units
    from transferscope.cells import TargetCells
    from transferscope.pairing import TargetFeatures
    from transferscope.raced import Evaluations
    from transferscope.tuning_run import TuningRun

    victims: dict[type[Any], tuple[Any, str, int]] = {
        units.Tuning: (TuningRun, "save", 1),
        units.Extraction: (measurement, "stimulate", 2),
        units.Measurement: (TargetCells, "add", 1),
        pieces.Start: (TuningRun, "save", 1),
        pieces.Features: (TargetFeatures, "get", 1),
        pieces.Predictions: (Evaluations, "run", 1),
    }
    kind = type(getattr(unit, "piece", unit))
    if kind in victims and first(Path(unit.study).parent / f"died-{kind.__name__}"):
        owner, name, calls = victims[kind]
        setattr(owner, name, _deadly(getattr(owner, name), calls))
    return units.perform(unit)


def _deadly(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, whose process dies when it was called so many times."""
    left = [calls]

    def called(*args: Any, **options: Any) -> Any:
        found = function(*args, **options)
        left[0] -= 1
        if not left[0]:
            die()
        return found

    return called


def unless_doomed(path: str) -> str:
    """The node that this is on; on the one that the file `doomed` beside the path names, wait for its end."""
    folder, here = Path(path).parent, node(0)
    (folder / f"on-{here}").touch()
    for _ in range(1200):
        if (folder / "doomed").read_text() != here:
            return here
        time.sleep(0.1)
    raise TimeoutError(f"{here} is still there")


def perform_unless_doomed(unit: Any) -> tuple[str, ...]:
    """`units.perform`; on a node that is to go the first tuning to have saved its state waits for the end."""
    from transferscope import units
    from transferscope.tuning_run import TuningRun

    beside = str(Path(unit.study).parent / "unit")
    if isinstance(unit, units.Tuning) and (Path(beside).parent / "doomed").read_text() == node(0):
        save = TuningRun.save

        def saved(*args: Any, **options: Any) -> Any:
            save(*args, **options)
            unless_doomed(beside)

        TuningRun.save = saved  # type: ignore[method-assign]
    return units.perform(unit)
