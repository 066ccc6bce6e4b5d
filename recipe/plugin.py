"""What verl loads in every process (entry-point group ``verl.plugins``).

Guards against known faults of verl are installed everywhere. The CPU platform is installed only
where ``VERL_PLATFORM=cpu`` asks for it, as ``cluster=cpu`` does: on a GPU cluster nothing under
`recipe.cpu` is imported.
"""

import os
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
except Exception as error:
    # verl catches what a plugin raises, logs it at DEBUG level and goes on: a run would be
    # unguarded. It lets SystemExit through.
    traceback.print_exc()
    raise SystemExit(
        f"thinkvg-rl: its verl plugin did not load: {error} "
        "(VERL_USE_EXTERNAL_PLUGINS=none uses verl without it)"
    ) from error
