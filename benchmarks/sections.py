"""Sections of a document that a benchmark writes, between `<!-- NAME:begin -->` and `:end`."""


def replace_section(text: str, name: str, content: str) -> str:
    """Put `content` between the markers of a section.

    Raises ValueError where the text has no such section.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"no section {name} in the text")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"
