"""The parquet files: their schemas, and their columns from the flat rows of a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_REWARD = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])

# The columns of flat rows (`convert.FLAT`) that a row of each kind is made of.
_BOTH = (
    *("index", "patient", "study", "image_path", "image", "question", "prompt"),
    *("findings", "prompt_tokens", "response_tokens"),
)
ROLLOUT_INPUT = (*_BOTH, "ground_truth")
SFT_INPUT = (*_BOTH, "response")


@dataclass(frozen=True)
class Layout:
    """What the files of a run hold beside what they always do.

    `embed_images` puts an image's file into `images[0].bytes` in place of its path in
    `images[0].image`; `with_tokens` adds lengths in tokens to `extra_info`.
    """

    min_pixels: int
    max_pixels: int
    with_findings: bool = False
    with_tokens: bool = False
    embed_images: bool = False

    @property
    def image_type(self) -> pa.DataType:
        source = ("bytes", pa.binary()) if self.embed_images else ("image", pa.string())
        return pa.struct([source, ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])

    @property
    def extra_info(self) -> pa.DataType:
        fields = [
            ("index", pa.int64()),
            ("split", pa.string()),
            ("question", pa.string()),
            ("patient", pa.string()),
            ("study", pa.string()),
            ("image_path", pa.string()),
        ]
        if self.with_findings:
            fields.append(("findings", pa.string()))
        if self.with_tokens:
            fields += [("prompt_tokens", pa.int32()), ("response_tokens", pa.int32())]
        return pa.struct(fields)

    @property
    def rollout_schema(self) -> pa.Schema:
        """The columns that verl's RLHFDataset and reward manager read."""
        return pa.schema(
            [
                ("data_source", pa.string()),
                ("prompt", _MESSAGES),
                ("images", pa.list_(self.image_type)),
                ("ability", pa.string()),
                ("reward_model", _REWARD),
                ("extra_info", self.extra_info),
            ]
        )

    @property
    def sft_schema(self) -> pa.Schema:
        """The columns that verl's MultiTurnSFTDataset reads."""
        return pa.schema(
            [
                ("messages", _MESSAGES),
                ("images", pa.list_(self.image_type)),
                ("extra_info", self.extra_info),
            ]
        )

    def rollout(self, flat: pa.Table, split: str) -> pa.Table:
        """Rows of a part as rollout rows."""
        truth = flat["ground_truth"].combine_chunks()
        columns = [
            _constant("thinkvg", len(flat)),
            _messages([("user", flat["prompt"])]),
            self._images(flat),
            _constant("grounded_vqa", len(flat)),
            _struct(_REWARD, [_constant("rule", len(flat)), truth]),
            self._extra_info(flat, split),
        ]
        return pa.Table.from_arrays(columns, schema=self.rollout_schema)

    def sft(self, flat: pa.Table, split: str) -> pa.Table:
        """Rows of a part that have a response, as SFT rows."""
        if flat["response"].null_count:
            flat = flat.filter(pc.is_valid(flat["response"]))
        columns = [
            _messages([("user", flat["prompt"]), ("assistant", flat["response"])]),
            self._images(flat),
            self._extra_info(flat, split),
        ]
        return pa.Table.from_arrays(columns, schema=self.sft_schema)

    def _images(self, flat: pa.Table) -> pa.Array:
        images = flat["image"].combine_chunks()
        if self.embed_images:
            contents = [Path(path).read_bytes() for path in images.to_pylist()]
            images = pa.array(contents, pa.binary())
        bounds = [
            pa.repeat(pa.scalar(value, pa.int64()), len(flat))
            for value in (self.min_pixels, self.max_pixels)
        ]
        return _lists(_struct(self.image_type, [images, *bounds]), 1)

    def _extra_info(self, flat: pa.Table, split: str) -> pa.Array:
        fields = [
            _constant(split, len(flat)) if name == "split" else flat[name].combine_chunks()
            for name in (field.name for field in self.extra_info)
        ]
        return _struct(self.extra_info, fields)


def _constant(text: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), rows)


def _struct(kind: pa.DataType, arrays: list[pa.Array]) -> pa.Array:
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def _messages(turns: list[tuple[str, pa.ChunkedArray]]) -> pa.Array:
    """One list of messages for each row: the same roles, and contents of `turns` in order."""
    rows, count = len(turns[0][1]), len(turns)
    roles = pa.array([role for role, _ in turns], pa.string())
    # Contents lie turn after turn; the order wanted is row after row.
    contents = pa.concat_arrays([content.combine_chunks() for _, content in turns])
    which = np.tile(np.arange(count), rows)
    if count > 1:
        contents = contents.take(pa.array(which * rows + np.arange(rows).repeat(count)))
    messages = _struct(_MESSAGES.value_type, [roles.take(pa.array(which)), contents])
    return _lists(messages, count)


def _lists(values: pa.Array, length: int) -> pa.Array:
    offsets = np.arange(0, len(values) + 1, length, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
