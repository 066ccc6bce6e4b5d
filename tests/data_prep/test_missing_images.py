"""Missing pictures: the list of them, and the command that fetches it."""

import shlex
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep.pictures import PHYSIONET
from data_prep.thinkvg import main

PATH = "p10/p10000002/s50000002/b.jpg"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def incomplete(make_dataset):
    """A dataset with one picture that is there and three rows about two that are not."""
    return make_dataset(
        {},
        {"image_path": f"/{PATH}"},
        {"image_path": f"files/{PATH}"},
        {"image_path": "/p10/p10000003/s50000003/c.png"},  # not MIMIC-CXR-JPG's layout
    )


def test_missing_pictures_are_listed_once(incomplete, paths, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(paths(incomplete, out)) == 0
    assert (out / "missing_images.txt").read_text() == f"{PHYSIONET}/files/{PATH}\n"
    error = capsys.readouterr().err
    assert f"1 images are missing, listed in {out / 'missing_images.txt'}" in error
    picture = incomplete / "files" / PATH
    picture.parent.mkdir(parents=True)
    shutil.copy(incomplete / "files" / "p10/p10000001/s50000001/a.jpg", picture)
    assert main(paths(incomplete, out)) == 0
    assert not (out / "missing_images.txt").exists()
    assert "missing" not in capsys.readouterr().err


def test_pictures_are_listed_where_the_frame_cannot_be_known_without_them(
    incomplete, paths, tmp_path, capsys
):
    out = tmp_path / "out"
    assert main([*paths(incomplete, out), "--frame", "auto"]) == 2
    assert (out / "missing_images.txt").read_text() == f"{PHYSIONET}/files/{PATH}\n"
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--frame auto needs 200 boxes" in error
    assert f"or fetch the 1 missing images, listed in {out / 'missing_images.txt'}: wget" in error


@pytest.mark.parametrize("below", ["", "files"])
def test_the_command_puts_pictures_where_they_are_looked_for(
    incomplete, tmp_path, capsys, cannot_run, below
):
    """Run against a server on this machine in PhysioNet's place."""
    if shutil.which("wget") is None:
        cannot_run("no wget here: apt-get install wget")
    out = tmp_path / "out"
    arguments = ["--source", str(incomplete), "--images", str(incomplete / below)]
    assert main([*arguments, "--out", str(out)]) == 0
    command = shlex.split(capsys.readouterr().err.split("fetch them with: ")[1].splitlines()[0])
    served = tmp_path / "physionet" / "files" / "mimic-cxr-jpg" / "2.1.0" / "files" / PATH
    served.parent.mkdir(parents=True)
    shutil.copy(incomplete / "files" / "p10/p10000001/s50000001/a.jpg", served)
    handler = partial(Quiet, directory=str(tmp_path / "physionet"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listed = out / "missing_images.txt"
        here = f"http://127.0.0.1:{server.server_port}"
        listed.write_text(listed.read_text().replace("https://physionet.org", here))
        command.remove("--ask-password")
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        server.shutdown()
    assert (incomplete / "files" / PATH).read_bytes() == served.read_bytes()
    assert main([*arguments, "--out", str(out)]) == 0
    assert "3 rows" not in capsys.readouterr().err
    assert not (out / "missing_images.txt").exists()


def test_a_wrong_folder_of_images_is_told_what_to_do(make_dataset, tmp_path, capsys):
    dataset = make_dataset({}, {"image_path": f"/{PATH}"})
    (tmp_path / "an empty folder").mkdir()
    out = tmp_path / "my out"
    arguments = ["--source", str(dataset), "--images", str(tmp_path / "an empty folder")]
    assert main([*arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        "2 are rejected as missing_image: name the folder that image_path is relative to" in error
    )
    assert f"listed in {out / 'missing_images.txt'}: wget" in error
    # Paths with spaces stay whole in a shell.
    command = shlex.split(error[error.index("wget") :])
    assert command[-3:] == [
        str(tmp_path / "an empty folder"),
        "--input-file",
        str(out / "missing_images.txt"),
    ]
