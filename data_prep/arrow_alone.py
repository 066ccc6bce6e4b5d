"""Arrow without pandas, in a process that needs no data frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pyarrow as pa


class _Refuses:
    """A finder of modules that finds no pandas."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> None:
        if name == "pandas":
            raise ImportError("not wanted here")


def leave_pandas_out() -> None:
    """Spares this process the import of pandas, a third of a second, for good.

    pyarrow 26.0 imports it when it is first given a list, to see whether the list is one of
    pandas' objects, and keeps to what it then found: `to_pandas` fails from here on.
    """
    if "pandas" in sys.modules:
        return
    finder = _Refuses()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
