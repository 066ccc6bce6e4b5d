"""Sections of a page in docs that a benchmark writes."""


def replace_section(text: str, name: str, content: str) -> str:
    """Return a text with `content` between the markers of a section.

    Raises:
        ValueError: the text has no such section.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"no section {name} in the text")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"
