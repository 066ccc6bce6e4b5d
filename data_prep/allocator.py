"""Has Arrow take its memory from jemalloc: to be imported before Arrow, which asks but once.

Its default, mimalloc, keeps memory that one thread took and another gave back, as happens to the
tables that are dealt out to files here.
"""

import os
import sys

if sys.platform == "linux":  # where Arrow's wheels are built with it
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
