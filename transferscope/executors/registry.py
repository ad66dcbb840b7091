"""What an executor is: something with `map`; a registered function makes it, of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from transferscope.errors import InputError, suggest

U = TypeVar("U")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Report = Callable[[str], None]


class Executor(Protocol):
    """Does units of work somewhere, ``workers`` of them at a time.

    ``here`` says that it does them in this very process, so that there is nothing to spread.
    """

    workers: int
    here: bool

    def map(
        self, function: Callable[[U], R], units: Sequence[U], *, report: Report | None = None
    ) -> Iterator[tuple[U, R]]:
        """Each unit with what the function returned for it, as they end, in any order.

        The function is called again for a unit whose worker died, so it has to be one that can be: of a unit
        that is half or wholly done it does what is missing. It is a function of a module, and units, results
        and errors are plain values: they go between processes. ``report`` gets a line for a worker that died.

        Raises what the function raises, if it is a TransferscopeError, and WorkerError: any other error, or a
        unit whose worker keeps dying.
        """
        ...

    def close(self) -> None:
        """End the workers. It is not used again."""
        ...


@dataclass(frozen=True)
class Executors:
    """One kind of executor: its name, and the function that makes one of it."""

    name: str
    function: Callable[..., Executor]

    @property
    def options(self) -> list[str]:
        """What can be said about one: the function's parameters."""
        return list(inspect.signature(self.function).parameters)


_EXECUTORS: dict[str, Executors] = {}


def executor(name: str) -> Callable[[F], F]:
    """Register a function, or a class, as `--executor NAME`."""

    def add(function: F) -> F:
        _EXECUTORS[name] = Executors(name, function)
        return function

    return add


def names() -> list[str]:
    """The names of all executors, sorted."""
    return sorted(_EXECUTORS)


def get(name: str) -> Executors:
    """One kind by name. Raises InputError with the nearest name."""
    if name not in _EXECUTORS:
        raise InputError(f"no executor {name!r}. {suggest(name, _EXECUTORS)}")
    return _EXECUTORS[name]


def make(name: str, **options: Any) -> Executor:
    """An executor by name; options that are None are as if they were not given.

    Raises InputError: an unknown name, or an option that this executor does not have.
    """
    kind = get(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in kind.options:
            having = [other for other in names() if option in get(other).options]
            raise InputError(
                f"the executor {name!r} has no option {option!r}; "
                f"it goes with {' or '.join(having) or 'none'}"
            )
    return kind.function(**given)
