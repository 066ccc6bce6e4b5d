import pytest

from data_prep.program import InputError
from data_prep.rows.prompts import load_templates
from reward.ground_truth import QUESTION_TYPES

ANSWER_FORMS = {
    "closed": "Yes or No",
    "single": "one letter",
    "multi": "all right letters",
    "open": "one sentence",
}


@pytest.mark.parametrize("kind", QUESTION_TYPES)
@pytest.mark.parametrize(("space", "words"), [("absolute", "pixels"), ("norm1000", "1000")])
def test_the_prompt_is_short_and_complete(kind, space, words):
    prompt = load_templates().render("Is it {units}?", kind, space)
    assert prompt.startswith("<image>\nIs it {units}?")
    for part in ("<think>", "<answer>", "<location>", "<ref>", "<box>", words, ANSWER_FORMS[kind]):
        assert part in prompt
    assert prompt.count("<image>") == 1
    assert len(prompt.split()) < 60


def write_templates(folder, **changes):
    folder.mkdir()
    for kind in QUESTION_TYPES:
        text = changes.get(kind, f"<image> {{question}} {{units}} {kind}")
        (folder / f"{kind}.txt").write_text(text)


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_the_version_changes_with_the_words_of_any_type(tmp_path, kind):
    write_templates(tmp_path / "a")
    before = load_templates("a", tmp_path).version
    assert load_templates("a", tmp_path).version == before
    (tmp_path / "a" / f"{kind}.txt").write_text("<image> {question} {units} Be brief.")
    assert load_templates("a", tmp_path).version != before


def test_a_template_at_fault_is_named(tmp_path):
    write_templates(tmp_path / "short", multi="<image> {question}")
    with pytest.raises(InputError, match=r"multi\.txt must hold \{units\} once"):
        load_templates("short", tmp_path)
    (tmp_path / "short" / "multi.txt").unlink()
    with pytest.raises(InputError, match=r"multi\.txt is missing"):
        load_templates("short", tmp_path)
    with pytest.raises(InputError, match="known are short"):
        load_templates("other", tmp_path)
