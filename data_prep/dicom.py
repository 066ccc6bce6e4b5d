"""DICOM files as pictures with 8 bits a channel, shown as a viewer shows them.

The stored values pass the modality's table or slope, then the file's window or VOI table, or, where
it has none, the percentiles of `data_prep.pictures`. MONOCHROME1 is inverted. `PatientOrientation`
turns the picture upright, with the patient's left on the right (DICOM PS3.3, C.7.6.1.1.1, C.7.6.3
and C.11). Boxes of a data set refer to the picture as stored; `turn_unit` maps them.
"""

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from reward.boxes_in_text import Box

SUFFIXES = (".dcm", ".dicom")
LOW, HIGH = 0.5, 99.5
"""Percentiles of the values that become black and white."""
DAMAGE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, RuntimeError, TypeError),
    *(struct.error, zlib.error),
)
"""What Pillow, pydicom and decoders raise for damaged files, beside OSError and ValueError."""
_MAGIC_AT, _MAGIC = 128, b"DICM"
_ATTRIBUTES = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "PatientOrientation",
    "PhotometricInterpretation",
    "SamplesPerPixel",
)

_TURNS = {
    # (swap the axes, then mirror left and right, then top and bottom): the same for Pillow
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, True, False): Image.Transpose.ROTATE_270,
    (True, False, True): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}
_STEPS = {turn.name: steps for steps, turn in _TURNS.items()}


T = TypeVar("T")


class DicomPicture(NamedTuple):
    """A picture in mode L or RGB, as (width, height) stored, and how it was turned upright.

    `turned` is a name of Pillow's `Transpose`, "" for a picture that is stored upright.
    """

    picture: Image.Image
    stored_size: tuple[int, int]
    turned: str


def is_dicom(source: Path | BinaryIO) -> bool:
    """Return whether a file is DICOM, by its first bytes or its name; raise OSError if unreadable.

    A stream is left at its beginning.
    """
    if isinstance(source, Path):
        if source.suffix.lower() in SUFFIXES:
            return True
        with source.open("rb") as file:
            return is_dicom(file)
    source.seek(_MAGIC_AT)
    magic = source.read(len(_MAGIC))
    source.seek(0)
    return magic == _MAGIC


def dicom_size(path: Path) -> tuple[int, int]:
    """Return the stored (width, height) from a file's header, without its pixels.

    Raises:
        OSError, ValueError: The file is not DICOM, or holds no single picture.
    """
    dataset = _read(path, stop_before_pixels=True, specific_tags=list(_ATTRIBUTES))
    return _decoded(_check, dataset, "attributes")


def any_size(size: tuple[int, int]) -> None:
    """Accept a picture of any size."""


def read_dicom(
    source: Path | BinaryIO, check: Callable[[tuple[int, int]], None] = any_size
) -> DicomPicture:
    """Return the picture of a DICOM file, windowed and upright.

    `check` gets the stored (width, height) before the pixels are decoded, and may raise.

    Raises:
        OSError, ValueError: The file is not DICOM, holds no single picture, or its pixels do not
            decode.
    """
    dataset = _read(source)
    size = _decoded(_check, dataset, "attributes")
    check(size)
    picture = _decoded(lambda each: Image.fromarray(_shown(each)), dataset, "pixels")
    orientation = _decoded(lambda each: each.get("PatientOrientation"), dataset, "attributes")
    steps = _steps_upright(orientation)
    turn = _TURNS.get(steps)
    if turn is not None:
        picture = picture.transpose(turn)
    return DicomPicture(picture, size, turn.name if turn is not None else "")


def _decoded(decode: Callable[[Any], T], dataset: Any, part: str) -> T:
    """Return a part of a file, which pydicom decodes only here; raise ValueError if damaged."""
    from pydicom.errors import BytesLengthException

    try:
        return decode(dataset)
    except (*DAMAGE, BytesLengthException) as error:
        raise ValueError(f"the DICOM {part} do not decode: {error}") from None


def _read(source: Path | BinaryIO, **options: Any) -> Any:
    import pydicom  # slow to import, and few sets need it
    from pydicom.errors import BytesLengthException

    try:
        # By force, since files without the first 132 bytes are common in hospitals.
        return pydicom.dcmread(source, force=True, **options)
    except (*DAMAGE, BytesLengthException) as error:
        raise ValueError(f"not a readable DICOM file: {error}") from None


def _check(dataset: Any) -> tuple[int, int]:
    """Return the stored (width, height); raise ValueError if there is no single picture."""
    columns, rows = dataset.get("Columns"), dataset.get("Rows")
    if not columns or not rows:
        raise ValueError("not a DICOM file with a picture: it has no Rows and Columns")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise ValueError(f"the DICOM file holds {frames} frames, not one picture")
    return int(columns), int(rows)


def _shown(dataset: Any) -> np.ndarray:
    """Return the picture as a viewer shows it: (height, width) or (height, width, 3), uint8."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    if "TransferSyntaxUID" not in dataset.file_meta:
        from pydicom.uid import ImplicitVRLittleEndian

        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # the standard's default
    stored = dataset.pixel_array
    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(stored, dataset)
        return (colours >> 8 if colours.dtype == np.uint16 else colours).astype(np.uint8)
    if not photometric.startswith("MONOCHROME"):
        shift = max(0, int(dataset.BitsStored) - 8)
        return (stored >> shift).astype(np.uint8)
    is_padding = _padding(stored, dataset)
    grey = _windowed(apply_modality_lut(stored, dataset), is_padding, dataset)
    if photometric == "MONOCHROME1":
        grey = 1 - grey
    grey[is_padding] = 0
    return (255 * grey).round().astype(np.uint8)


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Return which pixels are padding around the picture, which is shown black."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = dataset.get("PixelPaddingRangeLimit")
    ends = sorted((int(first), int(first if last is None else last)))
    return (stored >= ends[0]) & (stored <= ends[1])


def _windowed(values: np.ndarray, is_padding: np.ndarray, dataset: Any) -> np.ndarray:
    """Return grey values from 0 to 1: by the file's table or window, else by percentiles."""
    from pydicom.pixels.processing import apply_voi, apply_windowing

    inside = values[~is_padding]
    if not inside.size:
        return np.zeros(values.shape)
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        # The table is looked up by whole numbers; a slope makes floats of them.
        grey = apply_voi(values.round().astype(np.int64), dataset) / (2**depth - 1)
    elif _has_window(dataset):
        with np.errstate(over="ignore"):  # of the sigmoid at the ends
            grey = apply_windowing(values, dataset)
            # What the darkest and the brightest values become.
            black, white = apply_windowing(np.array([-1e12, 1e12]), dataset)
        grey = (grey - black) / (white - black)
    else:
        return scaled(values, window(inside))
    # Some files have a window beside their values, which would leave a single grey.
    low, high = np.percentile(grey[~is_padding], (LOW, HIGH))
    return grey.clip(0, 1) if low < high else scaled(values, window(inside))


def _has_window(dataset: Any) -> bool:
    """Return whether the header has a usable window; of several, the first is used."""
    values = [dataset.get(name) for name in ("WindowCenter", "WindowWidth")]
    firsts = [v[0] if isinstance(v, Sequence) and v else v for v in values]
    numbers = [float(v) for v in firsts if isinstance(v, int | float)]
    return len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[1] > 1


def window(values: np.ndarray) -> tuple[float, float]:
    """Return the percentiles `LOW` and `HIGH` of the finite values, which become black and white.

    If they are equal, return the lowest and the highest value.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(finite, (LOW, HIGH)))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    return low, high


def scaled(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Return values from 0 to 1: `ends` become 0 and 1, and what lies outside is cut off."""
    low, high = ends
    finite = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=low, posinf=high, neginf=low)
    return ((finite - low) / max(high - low, 1e-9)).clip(0, 1)


def _steps_upright(orientation: Any) -> tuple[bool, bool, bool]:
    """Return what turns a picture upright: swap the axes, mirror left and right, top and bottom.

    `orientation` has the directions in which the columns and the rows count up, such as L and F.
    In a frontal view, that is the patient's left and foot; a side view may face either way.
    """
    if not isinstance(orientation, Sequence) or len(orientation) != 2:
        return (False, False, False)
    along, down = (str(direction).strip().upper()[:1] for direction in orientation)
    is_sideways = along in ("H", "F") and down not in ("H", "F")
    if is_sideways:
        along, down = down, along
    return (is_sideways, along == "R", down == "H")


def turn_unit(unit: Box, turned: str) -> Box:
    """Map a box in fractions of the stored picture to the picture that was turned upright."""
    swap, mirror, flip = _STEPS.get(turned, (False, False, False))
    x1, y1, x2, y2 = unit
    if swap:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if mirror:
        x1, x2 = 1 - x2, 1 - x1
    if flip:
        y1, y2 = 1 - y2, 1 - y1
    return (x1, y1, x2, y2)
