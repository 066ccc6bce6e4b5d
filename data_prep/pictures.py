"""The pictures that rows name: where they are, how large, and which are missing."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data_prep.coordinates import Size
from data_prep.errors import InputError
from data_prep.files import whole_file

# What `data_prep.images` writes beside its copies: a line of JSON for each.
MANIFEST = "manifest.jsonl"
# Its log while copies are being made.
MANIFEST_LOG = ".manifest.log"
MISSING = "missing_images.txt"
PHYSIONET = "https://physionet.org/files/mimic-cxr-jpg/2.1.0"
# Of so many pictures the first few are measured one by one, to see what it is that takes the time.
SPELL, TRIED = 1024, 16
_SUBJECT = re.compile(r"(?:^|/)(p\d{6,})/(?:(s\d+)/)?")
_LAYOUT = re.compile(r"(p\d\d/p\d+/s\d+/[^/\s]+\.jpg)$")


@dataclass(frozen=True)
class Picture:
    """A picture: its absolute path, its (width, height) in pixels, and those of its original.

    The two sizes differ for a copy made by `data_prep.images`: boxes in original pixels, or padded
    by the original's aspect, still refer to the original.
    """

    path: str
    size: Size
    original: Size


def patient_and_study(image_path: str) -> tuple[str, str] | None:
    """`("p10000032", "s50414267")` from MIMIC-CXR's layout; None in any other."""
    match = _SUBJECT.search(image_path)
    return (match[1], match[2] or "") if match else None


class Folder:
    """A folder of pictures in MIMIC-CXR-JPG's layout, with or without `files/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._originals = read_manifest(folder)
        # Looked at once: a name is then sought in one place first, which matters on slow disks.
        self._files = folder / "files" if (folder / "files").is_dir() else None

    def __reduce__(self) -> tuple[Callable[[Path], Folder], tuple[Path]]:
        # Another process reads the manifest once, and is not sent it with every job.
        return _open_once, (self._folder,)

    def measure(self, name: str) -> Picture | str:
        """The picture of that name, its size read from its header, or a reject code."""
        path = self.locate(name)
        if path is None:
            return "missing_image"
        try:
            with Image.open(path) as picture:
                size = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            # PIL raises each of these for files that are not pictures.
            return "unreadable_image"
        return Picture(str(path), size, self._original(path) if self._originals else size)

    def _original(self, path: Path) -> Size:
        """The size of the picture that this one is a copy of."""
        known = self._originals.get(_key(path))
        if known is None:
            raise InputError(
                f"{path} is not in the {MANIFEST} of its folder, so its original's size is not "
                "known: remove it and run data_prep.images again"
            )
        return known

    def locate(self, name: str) -> Path | None:
        relative = name.strip().lstrip("/")
        if not relative or "\0" in relative or ".." in relative.split("/"):
            return None
        for path in self._places(relative):
            try:
                found = path if path.is_file() else _other_format(path, self._originals)
            except OSError:  # a name longer than the file system takes
                continue
            if found:
                return found
        return None

    def _places(self, relative: str) -> Iterator[Path]:
        if self._files:
            yield self._files / relative
        yield self._folder / relative
        if relative.startswith("files/"):
            yield self._folder / relative.removeprefix("files/")


def _other_format(path: Path, originals: dict[str, Size]) -> Path | None:
    """A copy in another format, where a manifest says that the folder holds copies."""
    if not originals:
        return None
    others = (path.with_suffix(suffix) for suffix in (".jpg", ".png", ".webp"))
    return next((other for other in others if other.is_file()), None)


def _key(path: Path) -> str:
    """A DICOM's name is unique in MIMIC-CXR; its study keeps others apart too."""
    return f"{path.parent.name}/{path.stem}"


def read_manifest(folder: Path) -> dict[str, Size]:
    """The original sizes of the copies in a folder; empty where there is no manifest."""
    sizes: dict[str, Size] = {}
    places = [folder, folder.parent] if folder.name == "files" else [folder]
    for place in places:
        if (place / MANIFEST_LOG).is_file():
            raise InputError(f"{place} holds unfinished copies: run data_prep.images again")
    for file in (place / MANIFEST for place in places if (place / MANIFEST).is_file()):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                entry = json.loads(line)
                width, height = entry["original_size"]
                sizes[_key(Path(entry["path"]))] = (int(width), int(height))
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{file} line {number} is damaged: run data_prep.images again"
                ) from None
    return sizes


@lru_cache(maxsize=1)
def _open_once(folder: Path) -> Folder:
    return Folder(folder)


Found = Picture | str
Spread = Callable[[Callable[[list[str]], list[Found]], list[list[str]]], Iterable[list[Found]]]


def find_pictures(
    names: Iterable[str], folder: Path, workers: int, spread: Spread = map
) -> dict[str, Found]:
    """Each named picture once: found and measured, or the reject code that says why not.

    Sizes come from the files' headers; no pixels are decoded. `spread` is `map`, or does the same
    in other processes; each has `workers` times four threads for a disk that has to be waited for.
    """
    wanted = sorted(set(names))
    measure = partial(_measure_spell, Folder(folder), 4 * max(1, workers))
    spells = [wanted[start : start + SPELL] for start in range(0, len(wanted), SPELL)]
    found: dict[str, Found] = {}
    with tqdm(total=len(wanted), desc="reading image headers", unit="image") as bar:
        for spell, measured in zip(spells, spread(measure, spells), strict=True):
            found |= zip(spell, measured, strict=True)
            bar.update(len(spell))
    return found


def _measure_spell(folder: Folder, threads: int, names: list[str]) -> list[Found]:
    """Measures pictures in order: in many threads where that is mostly waiting for the disk.

    Where it is not, threads that hand the interpreter to each other would take twice the time.
    """
    tried, rest = names[:TRIED], names[TRIED:]
    begin, busy = time.perf_counter(), time.thread_time()
    measured = list(map(folder.measure, tried))
    if time.perf_counter() - begin <= 2 * (time.thread_time() - busy):
        return measured + list(map(folder.measure, rest))
    with ThreadPoolExecutor(threads) as pool:
        return measured + list(pool.map(folder.measure, rest))


def missing_urls(found: dict[str, Picture | str]) -> list[str]:
    """The addresses on PhysioNet of missing pictures, of those in MIMIC-CXR-JPG's layout."""
    matches = (
        _LAYOUT.search(name) for name, picture in found.items() if picture == "missing_image"
    )
    return sorted({f"{PHYSIONET}/files/{match[1]}" for match in matches if match})


def write_missing(out: Path, urls: list[str]) -> None:
    """Writes the list of missing pictures, an address a line, or removes an old one."""
    if not urls:
        (out / MISSING).unlink(missing_ok=True)
        return
    with whole_file(out / MISSING) as temporary:
        temporary.write_text("".join(f"{url}\n" for url in urls), encoding="utf-8")


def download_command(listed: Path, images: Path) -> str:
    """The command that fetches the listed pictures into the folder of images."""
    root = images.parent if images.name == "files" else images
    # The address' path is files/mimic-cxr-jpg/2.1.0/files/pNN/…: three folders are cut off.
    return (
        f"wget --continue --force-directories --no-host-directories --cut-dirs=3 "
        f"--user PHYSIONET_USER --ask-password --directory-prefix {shlex.quote(str(root))} "
        f"--input-file {shlex.quote(str(listed))}"
    )
