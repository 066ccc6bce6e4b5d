import pytest

from data_prep.prompts import ANSWER_FORMS, load_template


@pytest.mark.parametrize("kind", list(ANSWER_FORMS))
@pytest.mark.parametrize(("space", "words"), [("absolute", "pixels"), ("norm1000", "1000")])
def test_the_prompt_is_short_and_complete(kind, space, words):
    prompt = load_template().render("Is it {units}?", kind, space)
    assert prompt.startswith("<image>\nIs it {units}?")
    for part in ("<think>", "<answer>", "<location>", "<ref>", "<box>", words, ANSWER_FORMS[kind]):
        assert part in prompt
    assert prompt.count("<image>") == 1
    assert len(prompt.split()) < 60


def test_the_version_changes_with_the_words(tmp_path):
    text = "<image> {question} {units} {answer_form}"
    (tmp_path / "a.txt").write_text(text)
    before = load_template("a", tmp_path).version
    (tmp_path / "a.txt").write_text(text + " Be brief.")
    assert load_template("a", tmp_path).version != before


def test_a_template_at_fault_is_named(tmp_path):
    (tmp_path / "short.txt").write_text("<image> {question} {units}")
    with pytest.raises(ValueError, match=r"short\.txt must hold \{answer_form\} once"):
        load_template("short", tmp_path)
    with pytest.raises(ValueError, match="known are short"):
        load_template("other", tmp_path)
