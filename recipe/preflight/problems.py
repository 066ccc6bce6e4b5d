"""Collects what checks find, instead of stopping at the first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from recipe.errors import InputError

Found = TypeVar("Found")


@dataclass
class Problems:
    """The faults of a run, one line each, each once, in the order they were found."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Add one line."""
        line = " ".join(message.split())
        if line not in self.messages:
            self.messages.append(line)

    def collect(self, what: str, check: Callable[[], Found]) -> Found | None:
        """Run a check of `what`; keep the fault it raises and return None, or what it returns."""
        try:
            return check()
        except InputError as error:
            self.add(str(error))
        except Exception as error:  # a check that fails must not keep the others from speaking
            self.add(f"preflight could not check {what}: {type(error).__name__}: {error}")
        return None

    def extend(self, what: str, check: Callable[[], Iterable[str]]) -> None:
        """Run a check of `what` that yields faults; keep them all."""

        def keep_all() -> None:
            for fault in check():
                self.add(fault)

        self.collect(what, keep_all)
