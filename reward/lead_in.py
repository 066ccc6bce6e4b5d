"""Phrases that a model puts before its answer, such as "The correct answer is:"."""

import re

LEAD_IN = re.compile(
    r"[\s*\"'`]*+(?:(?:so|thus|therefore|hence)\b[\s,]*+)?+"
    r"(?:(?:the|my|final|correct|best|right|most|likely)\s++){0,4}+"
    r"(?:(?:answer|option|choice|conclusion)s?+(?:\s*+\(s\))?+\s*+"
    r"(?:\b(?:is|are|would\s++be|should\s++be|must\s++be)\b\s*+:?+|:|=)\s*+"
    r"|i\s++(?:would\s++)?+(?:choose|select|pick|answer)\s++)",
    re.IGNORECASE,
)
