"""pyarrow is kept from importing pandas, in a process of its own, since it remembers."""

import subprocess
import sys

PROGRAM = """
import sys
from data_prep.arrow_alone import leave_pandas_out
leave_pandas_out()
import pyarrow as pa
assert pa.array(["a", None]).to_pylist() == ["a", None]
assert pa.table({"a": pa.array([1.5])}).take(pa.array([0])).to_pylist() == [{"a": 1.5}]
assert "pandas" not in sys.modules
import pandas  # for others it can still be had
leave_pandas_out()  # too late, and no fault
"""


def test_arrow_takes_lists_without_pandas() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)


def test_arrow_alone_would_import_it() -> None:
    """Where this fails, pyarrow has learnt better and `arrow_alone` can go."""
    program = "import sys, pyarrow as pa; pa.array(['a']); sys.exit('pandas' not in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
