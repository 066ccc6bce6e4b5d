"""Offline W&B runs: their history read back, what a resumed run will log again taken out, and what
a killed run had not yet written put in.

An offline run is a file ``wandb/offline-run-TIME-ID/run-ID.wandb``: records (protobuf) in the log
format of LevelDB (https://github.com/google/leveldb/blob/main/doc/log_format.md), with zlib's CRC
behind a header of 7 bytes. W&B 0.31 ships no reader for Python. Each start of a run writes a folder
of its own under the same id, and ``wandb sync`` joins them.
"""

import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

BLOCK = 32768
FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
RECORD = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[bytes]:
    """The records of a file; a cut-off or damaged end, as a killed run leaves it, ends them."""
    data = path.read_bytes()
    if data[:4] != FILE_HEADER[:4]:
        return
    position, parts = len(FILE_HEADER), b""
    while position + RECORD.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < RECORD.size:
            position += room
            continue
        checksum, length, kind = RECORD.unpack_from(data, position)
        body = data[position + RECORD.size : position + RECORD.size + length]
        if len(body) < length or checksum != zlib.crc32(body, zlib.crc32(bytes([kind]))):
            return
        position += RECORD.size + length
        parts = body if kind in (FULL, FIRST) else parts + body
        if kind in (FULL, LAST):
            yield parts


def encode(bodies: Iterable[bytes]) -> bytes:
    """A file with these records."""
    data = bytearray(FILE_HEADER)
    for body in bodies:
        rest, first = body, True
        while first or rest:
            room = BLOCK - len(data) % BLOCK
            if room < RECORD.size:
                data += bytes(room)
                room = BLOCK
            part, rest = rest[: room - RECORD.size], rest[room - RECORD.size :]
            kind = (FIRST if rest else FULL) if first else (MIDDLE if rest else LAST)
            data += RECORD.pack(zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind)
            data += part
            first = False
    return bytes(data)


def _files(wandb_dir: Path, run_id: str) -> list[Path]:
    """The files of a run's starts, oldest first."""
    return sorted(wandb_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


def _point(body: bytes) -> dict[str, Any] | None:
    """The values of a record of the history; None for other records."""
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record()
    record.ParseFromString(body)
    if record.WhichOneof("record_type") != "history":
        return None
    return {
        item.key or ".".join(item.nested_key): json.loads(item.value_json)
        for item in record.history.item
    }


def history(wandb_dir: Path, run_id: str) -> list[dict[str, Any]]:
    """Every point of a run's history over all its starts, in the order in which it was logged.

    Args:
        wandb_dir: the folder that holds ``wandb/`` (``WANDB_DIR``, a run's folder).
        run_id: id of the run.

    Returns:
        Metric to value for each point, with W&B's own ``_step``.
    """
    bodies = (body for path in _files(wandb_dir, run_id) for body in records(path))
    return [point for body in bodies if (point := _point(body)) is not None]


def forget_after(wandb_dir: Path, run_id: str, step: int) -> None:
    """Take the points behind `step` out of a run's files, before it logs these steps again."""
    for path in _files(wandb_dir, run_id):
        bodies = list(records(path))
        points = [_point(body) for body in bodies]
        kept = [
            body
            for body, point in zip(bodies, points, strict=True)
            if point is None or point["_step"] <= step
        ]
        if len(kept) < len(bodies):
            _write_atomically(path, encode(kept))


def fill_in(wandb_dir: Path, run_id: str, logged: Mapping[int, Mapping[str, float]]) -> None:
    """Put steps that a killed run had logged, and W&B not yet written, behind its last ones.

    W&B keeps a step until the next one is logged, and its process may die with steps unwritten.

    Args:
        wandb_dir, run_id: as for `history`; without files of the run nothing is done.
        logged: metric to value for each step, from a log that is written at once.
    """
    files = _files(wandb_dir, run_id)
    written = {point["_step"] for point in history(wandb_dir, run_id)}
    missing = sorted(set(logged) - written)
    if files and missing:
        added = [_history_record(step, logged[step]) for step in missing]
        _write_atomically(files[-1], encode([*records(files[-1]), *added]))


def _history_record(step: int, values: Mapping[str, float]) -> bytes:
    from wandb.proto.wandb_internal_pb2 import Record

    record = Record()
    record.history.step.num = step
    for key, value in {**values, "_step": step}.items():
        item = record.history.item.add()
        item.nested_key.append(key)
        item.value_json = json.dumps(value)
    return bytes(record.SerializeToString())


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
    os.chmod(temporary, path.stat().st_mode)
    os.replace(temporary, path)
