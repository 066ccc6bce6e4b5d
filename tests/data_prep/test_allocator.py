"""The preparation's allocator, in processes of their own, since Arrow chooses it when imported."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import data_prep.thinkvg
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Arrow is built with jemalloc on Linux")
@pytest.mark.parametrize(("wanted", "found"), [(None, "jemalloc"), ("system", "system")])
def test_jemalloc_unless_another_is_asked_for(wanted: str | None, found: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    if wanted:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = wanted
    command = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == found
    assert not answer.stderr
