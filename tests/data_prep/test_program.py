import pytest

from data_prep.program import STOPPED, InputError, refuse_other_folder, run, whole_folder

ENDS = [
    (None, 0, ""),
    (InputError("--out x is a file: name a folder"), 2, "--out x is a file: name a folder\n"),
    (OSError(28, "No space left on device", "a/b"), 2, "a/b: No space left on device\n"),
    (OSError(28, "No space left on device"), 2, "out: No space left on device\n"),
    (OSError("odd"), 2, "out: odd\n"),
    (KeyboardInterrupt(), 130, f"{STOPPED}\n"),
]


@pytest.mark.parametrize(("fault", "code", "said"), ENDS)
def test_a_command_ends_with_a_code_and_at_most_one_line(tmp_path, capsys, fault, code, said):
    def work():
        if fault is not None:
            raise fault

    assert run(work, "out") == code
    assert capsys.readouterr().err == said


def test_a_fault_of_the_program_is_not_hidden():
    def work():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(work, "out")


@pytest.mark.parametrize("fault", [InputError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path, fault):
    out = tmp_path / "model"

    def write(text):
        with whole_folder(out) as unfinished:
            (unfinished / "weights").write_text(text)
            if text == "second":
                raise fault

    write("first")
    with pytest.raises(fault):
        write("second")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (out / "weights").read_text() == "first"


def test_a_folder_of_something_else_is_refused(tmp_path):
    refuse_other_folder(tmp_path / "new", "config.json")
    refuse_other_folder(tmp_path, "config.json")
    (tmp_path / "precious").touch()
    with pytest.raises(InputError, match=r"has files, but no config\.json"):
        refuse_other_folder(tmp_path, "config.json")
    (tmp_path / "config.json").touch()
    refuse_other_folder(tmp_path, "config.json")
