"""What verl loads in every process (entry-point group ``verl.plugins``).

Guards against known faults of verl are installed everywhere. The CPU platform is installed only
where ``VERL_PLATFORM=cpu`` asks for it, which `recipe.launching` sets on machines without an
accelerator: on a GPU cluster nothing under `recipe.cpu` is imported.
"""

import os
import sys
import traceback

from recipe import verl_guards


def load() -> None:
    """Install the guards and, where asked for, the CPU platform."""
    verl_guards.install()
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        from recipe.cpu import install

        install()


try:
    load()
except Exception:
    # verl logs a plugin's fault at DEBUG level only and goes on without it; the run would then
    # fail much later and far from the cause.
    traceback.print_exc()
    sys.stderr.write("thinkvg-rl: the verl plugin did not load; see the traceback above\n")
    raise
