"""An answer without mark-up, list bullets and phrases such as "The correct answer is:"."""

import re

_LEAD_IN = re.compile(
    r"[\s*\"'`]*+(?:(?:so|thus|therefore|hence)\b[\s,]*+)?+"
    r"(?:(?:the|my|final|correct|best|right|most|likely)\s++){0,4}+"
    r"(?:(?:answer|option|choice|conclusion)s?+(?:\s*+\(s\))?+[*\s]*+"
    r"(?:\b(?:is|are|would\s++be|should\s++be|must\s++be)\b\s*+:?+|:|=)\s*+"
    r"|i\s++(?:would\s++)?+(?:choose|select|pick|answer|think)\s++(?:it\s++is\b\s*+)?+"
    r"|it(?:\s++is|['’]s)\b\s*+)",
    re.IGNORECASE,
)
_STATEMENT = re.compile(r"\banswers?+[*\s]*+(?:\b(?:is|are)\b\s*+:?+|:)", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*+\{([^{}]*+)\}")
_HTML = re.compile(r"</?(?:b|i|u|em|strong|p|br|span|code)\s*+/?>", re.IGNORECASE)
_BULLET = re.compile(r"^[^\S\n]*+(?:[-•*–]|\d{1,2}+[.)])[^\S\n]++", re.MULTILINE)


def bare_answer(text: str) -> str:
    """Return an answer without mark-up and without the phrase that leads up to it."""
    text = text.strip()
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


def stated_answer(text: str) -> str | None:
    """Return what follows the last "answer is" or "answer:" within a text, None without one."""
    statements = list(_STATEMENT.finditer(text))
    if not statements or not statements[-1].start():
        return None
    return text[statements[-1].end() :]
