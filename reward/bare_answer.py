"""An answer without mark-up, list bullets and phrases such as "The correct answer is:"."""

import re

_LEAD_IN = re.compile(
    r"[\s*\"'`]*+(?:(?:so|thus|therefore|hence)\b[\s,]*+)?+"
    r"(?:(?:the|my|final|correct|best|right|most|likely)\s++){0,4}+"
    r"(?:(?:answer|option|choice|conclusion)s?+(?:\s*+\(s\))?+[*\s]*+"
    r"(?:to\s++(?:this|the)\s++question\s++)?+"
    r"(?:\b(?:is|are|would\s++be|should\s++be|must\s++be)\b\s*+:?+|[:=]|[-–]\s)\s*+"
    r"|i\s++(?:would\s++)?+(?:choose|select|pick|answer|think)\s++(?:it\s++is\b\s*+)?+"
    r"|it(?:\s++is|['’]s)\b\s*+)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A```\w*+\s*+|\s*+```\Z")
_JSON = re.compile(
    r"\A\{\s*+[\"'](?:final_)?(?:answer|choice|option)s?[\"']\s*+:\s*+([^{}]*+)\}\Z", re.I
)
_FULL_WIDTH = str.maketrans("，、；：（）。", ",,;:().")
_STATEMENT = re.compile(r"\banswers?+[*\s]*+(?:\b(?:is|are)\b\s*+:?+|:)", re.IGNORECASE)
_AT_END = re.compile(r",\s++((?:yes|no)[.!]?)\Z", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*+\{([^{}]*+)\}")
_HTML = re.compile(r"</?(?:b|i|u|em|strong|p|br|span|code)\s*+/?>", re.IGNORECASE)
_BULLET = re.compile(r"^[^\S\n]*+(?:[-•*–]|\d{1,2}+[.)])[^\S\n]++", re.MULTILINE)


def bare_answer(text: str) -> str:
    """Return an answer without mark-up and without the phrase that leads up to it."""
    text = text.strip()
    if not text.isascii():
        text = text.translate(_FULL_WIDTH)
    if text.startswith("```"):
        text = _FENCE.sub("", text)
    if text.startswith("{") and (json := _JSON.match(text)):
        text = json[1].strip()
    if "\\" in text:
        text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))
    if "<" in text:
        text = _HTML.sub("", text)
    if "\n" in text:
        text = _BULLET.sub("", text)
    if text.startswith("$"):
        text = text.strip("$ ")
    lead_in = _LEAD_IN.match(text)
    return text[lead_in.end() :] if lead_in else text


def stated_answers(text: str) -> list[str]:
    """Return what a text says before its first "answer is" or "answer:", and behind each of them.

    What is said before is left out where that is nothing; a last ", yes" counts as a statement.
    Empty where the text states nothing in this way or only begins with it.
    """
    found = list(_STATEMENT.finditer(text))
    if not found or (len(found) == 1 and not found[0].start()):
        return _AT_END.findall(text)
    edges = [0, *(edge for match in found for edge in match.span()), len(text)]
    pieces = [text[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return [piece.strip() for piece in pieces if piece.strip()]
