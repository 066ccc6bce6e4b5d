import json

import numpy as np
import pytest

from data_prep.frames import ThinEvidence, band_evidence, doubt_frame, infer_fit, infer_frame
from data_prep.thinkvg import main
from phantom.draw.dataset import Variant, write_dataset
from phantom.draw.rows import Dirt

FRAMES = [(224, "stretch"), (224, "pad"), (336, "stretch"), (336, "pad"), (None, "stretch")]


def boxes(largest, count=400, size=(2544, 3056), seed=0):
    """Boxes whose corners reach from 0 to `largest` (width, height), in pictures of `size`."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 0.5, (count, 2)) * largest
    ends = starts + rng.uniform(0.1, 0.5, (count, 2)) * largest
    corners = np.hstack([starts, ends])
    corners[0] = [0, 0, *np.array(largest) * 0.995]
    corners[1] = corners[0]
    return [(tuple(float(side) for side in row), size) for row in corners]


@pytest.mark.parametrize("side", [224, 336])
def test_a_known_frame_is_recognised(side):
    size, evidence = infer_frame(boxes((side, side)))
    assert size == (side, side)
    assert "400 boxes" in evidence
    assert str(side) in evidence


def test_original_pixels_are_recognised():
    size, evidence = infer_frame(boxes((2544, 3056)))
    assert size is None
    assert "original" in evidence


def test_a_single_stray_does_not_change_the_verdict():
    stray = ((0.0, 0.0, 2000.0, 2000.0), (2544, 3056))
    assert infer_frame([*boxes((336, 336), count=2000), stray])[0] == (336, 336)


@pytest.mark.parametrize("stray", [[20, 40, 400, 80], [20, 40, 90, 9000], [-40, 40, 900, 80]])
def test_boxes_that_are_going_to_be_rejected_do_not_decide(stray):
    strays = [(tuple(map(float, stray)), (2544, 3056))] * 4
    size, evidence = infer_frame([*boxes((336, 336)), *strays])
    assert size == (336, 336)
    assert "but for 4 boxes outside" in evidence
    with pytest.raises(ThinEvidence):  # one in ten is no stray
        infer_frame([*boxes((336, 336)), *strays * 10])


@pytest.mark.parametrize(
    ("largest", "given", "doubt"),
    [
        ((336, 336), (336, 336), None),
        ((224, 224), (224, 224), None),
        ((512, 512), (336, 336), "reach outside"),
        ((448, 448), (336, 336), "reach outside"),
        ((256, 256), (336, 336), "further than 76%"),
        ((300, 300), (336, 336), "further than 89%"),
        ((448, 336), (448, 336), None),
        ((200, 336), (448, 336), None),  # one side is enough: bands may take of the other
        ((448, 336), (336, 448), "reach outside"),
        ((2544, 3056), None, None),
        ((448, 448), None, "further than 15%"),
        ((4000, 3056), None, "reach outside"),
    ],
)
def test_a_given_frame_is_checked_by_itself(largest, given, doubt):
    found = doubt_frame(boxes(largest), given)
    assert found is None if doubt is None else doubt in found


def test_too_few_boxes_check_no_frame():
    with pytest.raises(ThinEvidence, match="not checked, for that takes 200 boxes, found 3"):
        doubt_frame(boxes((336, 336), count=3), (336, 336))


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (boxes((336, 336), count=50), "50"),  # too few
        (boxes((270, 270)), "no known frame"),  # between the two
        (boxes((320, 320)), "no known frame"),  # close to one, but not it
        (boxes((230, 230)), "no known frame"),
        (boxes((342, 342)), "no known frame"),
        (boxes((500, 500)), "no known frame"),  # too large for both, far from the pictures' edges
        (boxes((336, 336), size=(336, 336)), "two frames"),  # pictures of the frame's own size
        ([], "0"),
    ],
)
def test_thin_evidence_is_refused(evidence, reason):
    with pytest.raises(ThinEvidence, match=reason) as caught:
        infer_frame(evidence)
    assert "name the frame" in str(caught.value)


UPRIGHT, LYING = (2000, 3000), (3000, 2000)
# In a frame of 300 an upright picture that is padded has bands of 50 at its sides.
INSIDE, IN_BAND = (60.0, 60.0, 240.0, 240.0), (20.0, 60.0, 240.0, 240.0)


def with_reach(in_band, count=400):
    """Boxes in pictures of both kinds: all reach far where there is no band, `in_band` into one."""
    far_x, far_y = (20.0, 60.0, 240.0, 240.0), (60.0, 20.0, 240.0, 240.0)
    found = [(far_x, LYING)] * count + [(far_y, UPRIGHT)] * count
    return found + [(IN_BAND, UPRIGHT)] * in_band


def test_boxes_in_bands_mean_stretched():
    fit, evidence = infer_fit(with_reach(in_band=700), (300, 300))
    assert fit == "stretch"
    assert "700 reach into them" in evidence


def test_boxes_in_bands_tell_where_nothing_says_how_many_there_would_be():
    assert infer_fit([(INSIDE, UPRIGHT)] * 300 + [(IN_BAND, UPRIGHT)] * 10, (300, 300))[0] == (
        "stretch"
    )


def test_no_box_in_bands_where_many_would_be_means_padded():
    fit, evidence = infer_fit(with_reach(in_band=0), (300, 300))
    assert fit == "pad"
    assert "about 800 would if stretched" in evidence


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (with_reach(in_band=50), "cannot tell"),  # padded with noise: stretched it would be more
        (with_reach(in_band=3), "cannot tell"),  # more than strays, fewer than stretched ones
        ([(INSIDE, UPRIGHT)] * 400, "cannot tell"),  # no picture tells how far boxes reach
        ([(INSIDE, UPRIGHT)] * 400 + [(INSIDE, LYING)] * 400, "about 0 would"),  # none reaches far
        ([(IN_BAND, UPRIGHT)] * 100, "needs 200 boxes"),
        ([(IN_BAND, (1000, 1010))] * 400, "found 0"),  # about square
        ([], "found 0"),
    ],
)
def test_thin_evidence_for_the_fit_is_refused(evidence, reason):
    with pytest.raises(ThinEvidence, match=reason) as caught:
        infer_fit(evidence, (300, 300))
    assert "name the fit" in str(caught.value)


def test_the_fit_does_not_matter_where_pictures_have_the_frames_shape():
    fit, evidence = infer_fit([(INSIDE, (900, 900))] * 300, (300, 300))
    assert fit == "stretch"
    assert "the same" in evidence


def test_bands_are_measured_on_the_side_where_they_are():
    found = band_evidence([(IN_BAND, UPRIGHT), (IN_BAND, LYING), (INSIDE, UPRIGHT)], (300, 300))
    assert (found.boxes, found.in_band) == (3, 1)
    assert found.widest == pytest.approx(50 / 300)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Phantom sets of 500 rows in every frame and fit, with pictures of mixed shapes."""
    made = {}
    for side, fit in FRAMES:
        out = tmp_path_factory.mktemp("set")
        frame = None if side is None else (side, side)
        variant = Variant(frame, fit, "mixed", 480, all_regions=True, rows=500)
        write_dataset(out, 70, 5, 1, Dirt(), variant)
        made[side, fit] = out
    return made


@pytest.mark.parametrize("case", FRAMES, ids=str)
def test_frame_and_fit_of_500_phantom_rows_are_inferred(sets, paths, tmp_path, case, capsys):
    side, fit = case
    assert main([*paths(sets[case], tmp_path), "--frame", "auto", "--workers", "1"]) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    parameters = audit["parameters"]
    assert parameters["frame"] == ("original" if side is None else f"{side}x{side}")
    assert side is None or parameters["fit"] == fit
    assert parameters["frame_evidence"] in capsys.readouterr().out
    assert audit["rows"]["rejects"] == 0
    assert audit["doubts"] == []


@pytest.mark.parametrize("case", FRAMES, ids=str)
def test_five_rows_are_too_few(sets, paths, tmp_path, case, capsys):
    options = ["--frame", "auto", "--limit", "5"]
    assert main([*paths(sets[case], tmp_path / "out"), *options]) == 2
    assert "--frame auto needs 200 boxes" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "given", "doubt"),
    [
        ((224, "pad"), ["--frame", "336"], "--frame 336 is at odds with the boxes"),
        ((336, "stretch"), ["--frame", "224"], "--frame 224 is at odds with the boxes"),
        ((336, "stretch"), ["--frame", "original"], "--frame original is at odds"),
        ((336, "pad"), ["--frame", "336"], "--fit stretch is at odds with the boxes"),
        ((336, "stretch"), ["--frame", "336", "--fit", "pad"], "--fit pad is at odds"),
        ((336, "stretch"), ["--frame", "auto", "--fit", "pad"], "--fit pad is at odds"),
    ],
)
def test_a_frame_or_fit_that_the_boxes_contradict_is_pointed_out(
    sets, paths, tmp_path, case, given, doubt, capsys
):
    assert main([*paths(sets[case], tmp_path), *given, "--workers", "1"]) == 0
    assert doubt in capsys.readouterr().err
    assert doubt in (tmp_path / "audit.html").read_text()


@pytest.mark.parametrize("side", [512, 300])
def test_a_frame_that_is_none_of_the_known_ones_is_pointed_out(paths, tmp_path, side, capsys):
    variant = Variant((side, side), "stretch", "mixed", 480, all_regions=True, rows=500)
    write_dataset(tmp_path / "set", 70, 5, 1, Dirt(), variant)
    arguments = [*paths(tmp_path / "set", tmp_path / "out"), "--workers", "1"]
    code = main(arguments)
    error = capsys.readouterr().err
    assert code == 0
    assert "--frame 336 is at odds with the boxes" in error
    assert ("rows have boxes outside of the frame: check --frame 336" in error) is (side == 512)
    assert main([*arguments, "--frame", "auto"]) == 2
    assert "fits no known frame: name the frame" in capsys.readouterr().err


def test_a_frame_that_was_not_checked_is_said_to_be_so(sets, paths, tmp_path, capsys):
    assert main([*paths(sets[336, "pad"], tmp_path), "--limit", "5", "--workers", "1"]) == 0
    assert "frame as given by --frame, not checked" in capsys.readouterr().out


def test_a_fit_beside_original_pixels_is_refused(make_dataset, paths, tmp_path, capsys):
    options = ["--frame", "original", "--fit", "pad"]
    assert main([*paths(make_dataset({}), tmp_path / "out"), *options]) == 2
    assert "--fit pad says nothing of --frame original" in capsys.readouterr().err


def test_the_fit_alone_can_be_inferred(sets, paths, tmp_path):
    options = ["--frame", "336", "--fit", "auto", "--workers", "1"]
    assert main([*paths(sets[336, "pad"], tmp_path), *options]) == 0
    assert json.loads((tmp_path / "audit.json").read_text())["parameters"]["fit"] == "pad"
