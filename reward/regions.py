"""Names of regions: read from the words before a box, and compared with each other."""

import re
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_REF_BEGIN = re.compile(r"<ref\s*+>", re.IGNORECASE)
_TAG = re.compile(r"</ref\s*+>|</?box\s*+>", re.IGNORECASE)
_CLAUSE = re.compile(r"[^.,;:!?()\[\]<>\n]+")
_END = "\0"
_LAST_CLAUSE_BACKWARDS = re.compile(r"\0([^.,;:!?()\[\]<>\n\0]{0,100}+)")
_MOST_WORDS = 6
_LONGEST_NAME = 200
_REGION_WORDS = frozenset(
    word
    for line in (
        "left right bilateral upper mid middle lower lung lungs zone zones hilar structures hilum",
        "hila apical apex costophrenic angle angles hemidiaphragm hemidiaphragms diaphragm",
        "clavicle clavicles trachea spine aortic arch aorta mediastinum mediastinal svc superior",
        "vena cava cardiac silhouette heart cavoatrial junction atrium carina abdomen base pleura",
    )
    for word in line.split()
)
_LINKS = frozenset(
    word
    for line in (
        "a an the this that these those in on at of to from with within and or over near by for",
        "as is are was were be has have shows show showing see seen region regions box bbox area",
        "located location coordinates coordinate coords 2d label bounding around both i we there",
        "it its into along",
        "between across under above below behind involving including marked highlighted covering",
    )
    for word in line.split()
)


def words_before(text: str) -> str:
    """Return the name that a text ends with, "" where it has none.

    Trailing fillers ("at", "region") and punctuation are passed over. The name is then the run of
    words of anatomy at the end, or, where there is none, the words up to the next article,
    preposition or punctuation, six at most: `"opacity of left lower lung zone (region "` gives
    `"left lower lung zone"`.
    """
    marked = _TAG.sub(" ", _REF_BEGIN.sub(";", text)) if "<" in text else text
    tries = 0
    for clause in reversed(_CLAUSE.findall(marked)):
        if not clause.isspace():
            name, tries = _name_at_end(clause), tries + 1
            if name or tries == 2:
                return name
    return ""


def names_at_end(texts: Sequence[str]) -> list[str]:
    """Return what `words_before` does of each text's last 100 characters, or "" to be asked anew.

    It looks at the words after the last punctuation only, for all texts at once.
    """
    # Backwards, because `re` searches forwards only.
    backwards = _END.join([*texts, ""])[::-1]
    if "<" in backwards or backwards.count(_END) != len(texts):
        return [""] * len(texts)
    names = list(map(_name_backwards, _LAST_CLAUSE_BACKWARDS.findall(backwards)))
    names.reverse()
    return names


@lru_cache(maxsize=4096)
def _name_backwards(clause: str) -> str:
    return _name_at_end(clause[::-1])


@lru_cache(maxsize=4096)
def _name_at_end(clause: str) -> str:
    words = _WORD.findall(clause)
    lowered = [word.lower() for word in words]
    end = len(words)
    while end and lowered[end - 1] in _LINKS:
        end -= 1
    return " ".join(words[_run_begin(lowered, end) : end]) if end else ""


def _run_begin(words: list[str], end: int) -> int:
    """Return where the name begins that ends at `end`."""
    is_region = words[end - 1] in _REGION_WORDS
    begin, first = end, max(0, end - _MOST_WORDS)
    while begin > first:
        word = words[begin - 1]
        if word in _LINKS or (is_region and word not in _REGION_WORDS):
            break
        begin -= 1
    return begin


def name_words(name: str) -> frozenset[str]:
    """Return the words of a region's name, without case, plural and fillers."""
    words = {word.lower() for word in _WORD.findall(name)} - _LINKS
    return frozenset(
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        for word in words
    )


def name_similarity(name: str, reference: str) -> float:
    """Return how alike a name is to a reference's, in [0, 1]: shared words over all words.

    1 where either is empty: a name that was not given cannot be wrong. One without a word, such as
    "-", is given.
    """
    if not name or not reference or name == reference:
        return 1.0
    return _similarity(name[:_LONGEST_NAME], reference[:_LONGEST_NAME])


@lru_cache(maxsize=8192)
def _similarity(first: str, second: str) -> float:
    left, right = name_words(first), name_words(second)
    if not right:
        return 1.0
    return len(left & right) / len(left | right)
