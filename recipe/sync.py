"""``python -m recipe.sync RUN_DIR``: upload a run that was logged to W&B offline.

W&B gets every step once, even if several starts logged it. A second upload adds only new steps. Run
it when the run has ended; it needs ``wandb login`` or WANDB_API_KEY.

Numbers come from ``metrics.jsonl``, histograms from ``histograms.jsonl``, tables of rollouts from
``rollout_tables/STEP``. The tables that verl makes of validations come from the folders that W&B's
client writes at each start. That client's records of the machine and of the console are not
uploaded; they stay in those folders.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from tqdm import tqdm

from data_prep.program import InputError, is_synthetic
from recipe.console import hide_secrets, say
from recipe.metrics_log import read_metrics
from recipe.run.folder import WANDB_ID, lock, read_run_config

HISTOGRAMS = "histograms.jsonl"
TABLES, TABLE = "rollout_tables", "table.json"
WANDB_TABLE = re.compile(r"(?P<name>.+)_(?P<step>\d+)_[0-9a-f]+\.table\.json")
"""A table's file below ``files/media/table`` of W&B's client; it contains no pictures."""
PICTURE = "picture"


def append_histograms(histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], step: int) -> None:
    """Save the counts and bin edges of a step in the run folder of this process."""
    data = {name: [array.tolist() for array in pair] for name, pair in histograms.items()}
    with (_run_dir() / HISTOGRAMS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, "data": data}) + "\n")


def save_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], step: int) -> Any:
    """Save a table of texts, numbers and pictures in the run folder; return it as W&B's."""
    folder = _run_dir() / TABLES / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    data = []
    for number, row in enumerate(rows):
        data.append(list(row))
        for column, value in enumerate(row):
            if isinstance(value, Image.Image):
                data[-1][column] = {PICTURE: f"{number}-{column}.png"}
                value.save(folder / f"{number}-{column}.png")
    content = json.dumps({"columns": list(columns), "data": data}, ensure_ascii=False)
    (folder / TABLE).write_text(content, encoding="utf-8")
    return _load_table(folder / TABLE)


def upload(run_dir: Path, with_tables: bool = True) -> int:
    """Log the steps that the W&B run does not have yet, each once and in order; count them.

    Without `with_tables` the tables stay on this machine, and a line says so.

    Raises:
        InputError: the folder names no W&B run or has no metrics, or W&B refuses the run.
    """
    identity, metrics = run_dir / WANDB_ID, run_dir / "metrics.jsonl"
    for file in (identity, metrics):
        if not file.is_file():
            raise InputError(f"{file}: no such file; give the folder of a training run")
    run_id = identity.read_text(encoding="utf-8").strip()
    numbers = read_metrics(metrics).table
    histograms, tables = _read_histograms(run_dir), _table_files(run_dir, run_id)
    with tempfile.TemporaryDirectory() as scratch, _open_run(run_dir, run_id, scratch) as run:
        missing = [int(step) for step in numbers.index if step >= run.starting_step]
        for step in tqdm(missing, desc="uploading", unit="step", delay=2):
            values = {str(name): value for name, value in numbers.loc[step].dropna().items()}
            values |= histograms.get(step, {})
            if with_tables:
                values |= {name: _load_table(file) for name, file in tables.get(step, {}).items()}
            run.log(values, step=step)
    left_out = [step for step in missing if tables.get(step)]
    if left_out and not with_tables:
        say(
            f"W&B: tables of {len(left_out)} steps stay in {run_dir}: the data does not say that "
            "it is synthetic"
        )
    return len(missing)


def upload_missing(run_dir: Path) -> None:
    """Upload the steps that W&B lacks because the run was killed; call it before a resume.

    W&B accepts no step below its last one. Nobody has asked for this upload: tables, which have
    pictures and texts, are sent only if the data says that it is synthetic.
    """
    config = read_run_config(run_dir)
    if "wandb" in config.get("trainer", {}).get("logger", ()):
        upload(run_dir, with_tables=_has_synthetic_data(config))


def _has_synthetic_data(config: Mapping[str, Any]) -> bool:
    data = config.get("data", {})
    return all(is_synthetic(str(data.get(key))) for key in ("train_files", "val_files"))


def _run_dir() -> Path:
    return Path(os.environ["VERL_FILE_LOGGER_PATH"]).parent


def _open_run(run_dir: Path, run_id: str, scratch: str) -> Any:
    """Open the run online, with its configuration but without secrets."""
    import wandb

    config = OmegaConf.create(read_run_config(run_dir))
    hide_secrets(config)
    trainer = config.get("trainer", {})
    plain: Any = OmegaConf.to_container(config)
    try:
        return wandb.init(
            project=trainer.get("project_name"),
            name=trainer.get("experiment_name"),
            config=plain,
            id=run_id,
            resume="allow",
            mode="online",
            dir=scratch,
            # The uploading machine and console are not those of the run.
            settings=wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True),
        )
    except wandb.Error as error:
        raise InputError(
            f"W&B did not open run {run_id} ({' '.join(str(error).split())}): run `wandb login`, "
            "or set WANDB_API_KEY"
        ) from error


def _read_histograms(run_dir: Path) -> dict[int, dict[str, Any]]:
    import wandb

    file = run_dir / HISTOGRAMS
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    # A killed run may leave a last line without a line end.
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {
        row["step"]: {
            name: wandb.Histogram(np_histogram=tuple(pair)) for name, pair in row["data"].items()
        }
        for row in rows
    }


def _table_files(run_dir: Path, run_id: str) -> dict[int, dict[str, Path]]:
    """Return the files of tables by step and name; the last start's if a step is repeated."""
    files: dict[int, dict[str, Path]] = {}
    for folder in sorted(run_dir.glob(f"wandb/*run-*-{run_id}/files/media/table")):
        for file in folder.rglob("*.table.json"):
            if match := WANDB_TABLE.fullmatch(str(file.relative_to(folder))):
                files.setdefault(int(match["step"]), {})[match["name"]] = file
    for file in run_dir.glob(f"{TABLES}/*/{TABLE}"):
        files.setdefault(int(file.parent.name), {})["rollouts"] = file
    return files


def _load_table(file: Path) -> Any:
    """Make a ``wandb.Table`` from its file and the pictures in the same folder."""
    import wandb

    def cell(value: Any) -> Any:
        is_picture = isinstance(value, dict) and PICTURE in value
        return wandb.Image(str(file.with_name(value[PICTURE]))) if is_picture else value

    content = json.loads(file.read_text(encoding="utf-8"))
    rows = [[cell(value) for value in row] for row in content["data"]]
    return wandb.Table(columns=content["columns"], data=rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Upload the run; on failure print one line to stderr and return 2."""
    parser = argparse.ArgumentParser(prog="python -m recipe.sync", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a training run")
    run_dir = parser.parse_args(arguments).run_dir
    try:
        if (run_dir / WANDB_ID).is_file():
            lock(run_dir)
        # By default W&B's client leaves copies of pictures in the home folder.
        with tempfile.TemporaryDirectory() as scratch:
            os.environ |= {"WANDB_CACHE_DIR": scratch, "WANDB_DATA_DIR": scratch}
            added = upload(run_dir)
    except (InputError, OSError) as error:
        print(f"recipe.sync: error: {error}", file=sys.stderr)
        return 2
    print(f"{added} steps uploaded; W&B's records of machine and console stay in {run_dir}/wandb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
