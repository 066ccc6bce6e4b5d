"""The tiny model's tokenizer: regions are tokens, and texts come back as they were."""

from phantom.tiny.model import region_names, train_tokenizer

ZONE = "right mid lung zone"
# All different: a line that many texts share would be one token.
TEXTS = [
    text
    for x in range(80)
    for text in (
        f"Is there an opacity in the {ZONE}? {x}",
        f"<think>Impression: opacity in the {ZONE}. The {ZONE} [{x}, 14, 99, 61] shows an opacity."
        f"</think>\n<answer>Yes</answer>\n<location><ref>{ZONE}</ref><box>[{x}, 14, 99, 61]</box>"
        "</location>",
        f"Which of these regions are normal? <choices>: [A: spine, B: right lung] {x}",
        f"<location><ref>spine; right lung</ref><box>[[{x}, 2, 3, 4], [5, 6, 7, 8]]</box>"
        "</location>",
    )
]


def test_names_come_from_the_ref_tags() -> None:
    assert region_names(TEXTS) == ["right mid lung zone", "right lung", "spine"]


def test_a_region_is_one_token_wherever_it_stands() -> None:
    tokenizer = train_tokenizer(TEXTS, 600)
    for text in TEXTS[:2]:
        pieces = [tokenizer.decode([token]) for token in tokenizer(text)["input_ids"]]
        assert sum(piece.strip() == ZONE for piece in pieces) == text.count(ZONE)


def test_texts_come_back() -> None:
    tokenizer = train_tokenizer(TEXTS, 600)
    for text in [*TEXTS, "Spinella, the spines of a cactus  and two  spaces: 0.5\n\n"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_texts_without_regions() -> None:
    tokenizer = train_tokenizer(["only words, nothing else"] * 4, 400)
    assert tokenizer.decode(tokenizer("only words")["input_ids"]) == "only words"
