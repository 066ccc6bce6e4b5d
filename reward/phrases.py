"""Brings phrases of a report into one form before its words are read."""

import re

_NOT = r"(?:not|cannot|can\s?not|never)"
_CONTRACTION = re.compile(
    r"\b(?:is|are|was|were|does|do|did|has|have|ca|could|would|should|wo)n['’]?t\b"
)
_SUBSTITUTES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        # denials that leave something open, or turn into their opposite
        (rf"\b{_NOT}\s++(?:be\s++)?(?:\w++ly\s++)?(?:excluded?|ruled\s++out)\b", "possible"),
        (rf"\b{_NOT}\s++(?:absent|without)\b", ""),
        (r"\b(?:there\s++is\s++)?no\s++doubt\b(?:\s++(?:of|about|that))?", ""),
        (r"\bnot\s++normal\b", "abnormal"),
        (r"\bnot\s++abnormal\b", "normal"),
        (r"\bno\s++(?:\w++\s++)?abnormalit(?:y|ies)\b", "normal"),
        (r"\b(?:no\s++cardiomegaly|no\s++enlarged\s++heart)\b", "normal heart size"),
        (r"\b(?:not\s++enlarged|non-?\s?enlarged)\b", "normal size"),
        (r"\bcardiomegaly\b", "enlarged heart"),
        (r"\b(?:free\s++of|clear\s++of|rules?\s++out|ruled\s++out)\b", "without"),
        # a denial behind what it denies
        (r"([a-z ]{1,60})[:?]\s*+(?:no|none|absent|negative)\b(?=\s*+(?:[.,;]|\Z))", r"no \1"),
        # sides
        (r"\b(left|right)[-\s]++sided\b", r"\1"),
        (
            r"\b(left|right)\s++(\w++(?:\s\w++){0,2}?)\s++and\s++(?:the\s++)?(?!\1)"
            r"(?:left|right)\s++(?=\2\b)",
            "bilateral ",
        ),
        (
            r"\b(left|right)\s++(?:and|as\s++well\s++as)\s++(?:the\s++)?(?!\1)(?:left|right)\b",
            "bilateral",
        ),
    )
)


def canonical(text: str) -> str:
    """Return a text in small letters, with one form for what is said in several.

    `"The heart isn't enlarged"` gives `"the heart is normal size"`.
    """
    lowered = _CONTRACTION.sub("is not", text.lower())
    for pattern, replacement in _SUBSTITUTES:
        lowered = pattern.sub(replacement, lowered)
    return lowered
