"""Command line of the preparation: `python -m data_prep.thinkvg`."""

from __future__ import annotations

import sys

from data_prep.pipeline import prepare
from data_prep.settings import build_parser, settings_from
from data_prep.source import InputError


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    try:
        settings = settings_from(options)
        audit = prepare(settings)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    rows = audit["rows"]
    counts = ", ".join(f"{rows[name]} {name}" for name in ("train", "val", "test", "rejects"))
    sizes = ", ".join(f"{size} ({count})" for size, count in list(audit["image_sizes"].items())[:3])
    print(f"{rows['source']} rows: {counts}, {rows['left_out']} left out. Model sizes: {sizes}")
    if small := audit["images_below_min_pixels"]:
        print(
            f"{small} images come out below --min-pixels {settings.min_pixels}, because sides are "
            f"rounded down from --max-pixels {settings.max_pixels}: raise it",
            file=sys.stderr,
        )
    print(f"see {settings.out / 'audit.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
