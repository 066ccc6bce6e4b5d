"""``python -m recipe.preflight``: check a run ahead of it, and print its plan and every problem."""

import argparse
import sys

from recipe.errors import InputError
from recipe.preflight.checklist import Plan, examine
from recipe.preflight.plan import as_json, as_text
from recipe.program import compose_config, fail, set_environment

EPILOG = """\
OVERRIDES are those of recipe.train (or recipe.sft, with --program sft). Exit code 0 without a
problem, 2 with one or more. Memory is calculated: recipe/preflight/memory.py has the formulas."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.preflight",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="of the configuration")
    parser.add_argument("--program", choices=("train", "sft"), default="train", help="(train)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--elsewhere",
        action="store_true",
        help="the run is for other machines: do not look at this one's GPUs, packages and disk",
    )
    return parser.parse_intermixed_args()


def main() -> None:
    """Entry point."""
    options = _options()
    try:
        config = compose_config(options.program, options.overrides)
    except InputError as error:
        if not options.json:
            fail(str(error))
        print(as_json(Plan(options.program, problems=(str(error),))))
        sys.exit(2)
    set_environment(config)
    plan = examine(config, options.program, options.elsewhere)
    print(as_json(plan) if options.json else as_text(plan))
    sys.exit(2 if plan.problems else 0)


if __name__ == "__main__":
    main()
