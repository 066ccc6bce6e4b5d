"""Answers that compare with an earlier examination or hedge, and the rows that have them."""

import json

import pyarrow.parquet as pq
import pytest

from data_prep.rows.answers import beyond_one_image, compares, hedges
from data_prep.thinkvg import main
from phantom.draw.__main__ import main as phantom_main


@pytest.mark.parametrize(
    "text",
    [
        "The cardiac silhouette is unchanged.",
        "UNCHANGED",
        "Stable cardiomegaly.",
        "The heart size remains stable.",
        "The opacity is larger compared with the previous examination.",
        "In comparison to prior, the effusion is smaller.",
        "Compared to the most recent chest radiograph, no difference.",
        "Comparison with prior: smaller.",
        "There is interval improvement of the edema.",
        "Interval removal of the tube.",
        "There is no interval change.",
        "A new opacity in the left lung.",
        "No new consolidation.",
        "A newly placed catheter.",
        "No significant change.",
        "There is no change in the position of the tube.",
        "The effusion has not changed.",
        "It is not significantly changed.",
        "The effusion has increased.",
        "The opacities have slightly decreased since the last study.",
        "The effusion has increased in size.",
        "The pneumothorax has resolved.",
        "The tube has been removed.",
        "Worsening pulmonary edema.",
        "Improved aeration of the left base.",
        "Progression of the consolidation.",
        "Persistent left pleural effusion.",
        "The opacity persists.",
        "Again seen is a right effusion.",
        "The previously noted nodule is not seen.",
        "As seen on the prior study, the aorta is tortuous.",
        "Similar to prior.",
        "Smaller than before.",
        "Better than yesterday.",
        "The catheter is no longer seen.",
        "Increasing pleural effusion.",
        "Redemonstrated cardiomegaly.",
        "Changes since the previous radiograph are small.",
        "The lungs remain the same.",
        "The edema changed from mild to severe.",
    ],
)
def test_what_compares(text):
    assert compares(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        "Increased opacity in the left lower lung zone.",
        "The left lung has increased opacity.",
        "The cardiac silhouette has increased size.",
        "Increased cardiac silhouette size.",
        "Decreased lung volumes.",
        "The heart is enlarged.",
        "The heart is larger than normal.",
        "The left lung is denser compared with the right lung.",
        "Compared to the other side, the hemidiaphragm is raised.",
        "Comparable in size to the left one.",
        "Evidence of prior surgery.",
        "Sternal wires from previous sternotomy.",
        "An old rib fracture.",
        "Consistent with prior granulomatous disease.",
        "Compared with prior surgery patients, this is common.",
        "The intervals between the ribs are even.",
        "The interval between the ribs is wide.",
        "No degenerative changes.",
        "Degenerative changes of the spine.",
        "No acute change of shape.",  # "acute" is no word of comparison
        "The clavicle is unstable.",
        "There is good stability of the hardware.",
        "The remaining lungs are clear.",
        "The lungs remain clear.",
        "A newborn's chest.",
        "New bone formation.",
        "A persistent left-sided SVC.",
        "The patient is hemodynamically stable.",
        "The nodule cannot be resolved.",
        "The resolution of the image is low.",
        "Opacity increasing toward the base.",
        "The chest is clear.",
        "Renewed attention is not needed.",
        "Signs of past chest surgery.",
    ],
)
def test_what_describes(text):
    assert not compares(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Atelectasis or pneumonia.", True),
        ("The opacity may be atelectasis or consolidation.", True),
        ("Atelectasis OR pneumonia", True),
        ("Atelectasis versus pneumonia.", True),
        ("Atelectasis vs. pneumonia.", True),
        ("One or two nodules.", True),
        ("No effusion; the opacity is atelectasis or pneumonia.", True),
        ("There is no effusion. The opacity is scar or tumour.", True),
        ("No effusion, but atelectasis or pneumonia.", True),
        ("Atelectasis or pneumonia, not edema.", True),
        ("No pleural effusion or pneumothorax.", False),
        ("There is no evidence of consolidation, effusion or pneumothorax.", False),
        ("The lungs are clear without effusion or edema.", False),
        ("Neither effusion or edema is seen.", False),
        ("The lung is free of opacity or nodules.", False),
        ("It isn't an effusion or an edema.", False),
        ("A minor opacity in the coronary region.", False),
        ("The anterior or-bit", False),
        ("Opacity and/or effusion", False),
        ("More or less normal.", False),
        ("Major fissure, inferior portion.", False),
        ("Orthopedic hardware.", False),
        ("", False),
    ],
)
def test_what_hedges(text, expected):
    assert hedges(text) is expected


CHOICES = {"A": "stable effusion", "B": "edema or effusion", "C": "clear", "D": "new opacity"}


@pytest.mark.parametrize(
    ("question", "kind", "written", "chosen", "expected"),
    [
        ("What is seen?", "open", "Unchanged effusion.", "", ("compares",)),
        ("What is seen?", "open", "Edema or effusion.", "", ("hedges",)),
        ("What is seen?", "open", "Stable edema or effusion.", "", ("compares", "hedges")),
        ("What has changed since the prior study?", "open", "The heart is large.", "", ()),
        ("Is it clear?", "closed", "Yes", "", ()),
        ("Is it clear?", "closed", "Yes, unchanged.", "", ("compares",)),
        ("Is the effusion unchanged?", "closed", "Yes", "", ("compares",)),
        ("Is there an effusion or edema?", "closed", "No", "", ()),  # yes and no are no hedge
        ("Which is it?", "single", "A", "A", ("compares",)),
        ("Which is it?", "single", "B", "B", ()),  # an option's text may join two things
        ("Which is it?", "single", "C", "C", ()),  # what is not chosen does not count
        ("Which are they?", "multi", "['C', 'D']", "CD", ("compares",)),
        ("Which are they?", "multi", "['B', 'C']", "BC", ()),
    ],
)
def test_what_is_looked_at(question, kind, written, chosen, expected):
    choices = CHOICES if kind in ("single", "multi") else None
    assert beyond_one_image(question, kind, written, chosen, choices) == expected


def test_a_long_text_is_read_in_time():
    text = "prior the the the the " * 1500 + "has been very very very "
    assert not compares(text)
    assert hedges("x or y " * 4000)


OPEN = {"question": "What is seen?", "question_type": "open_ended_questions"}


def answer(text):
    return {**OPEN, "response": f"<answer>{text}</answer>"}


ROWS = [
    {},
    answer("Unchanged effusion."),
    answer("Edema or effusion."),
    answer("Stable, edema or effusion."),
    answer("An effusion."),
    {"question": "Is the effusion unchanged?"},
    {**answer("Unchanged."), "image_path": "/p10/p10000001/s50000001/none.jpg"},  # rejected anyway
]
COUNTS = {"compares": {"closed": 1, "open": 2}, "hedges": {"open": 2}}


@pytest.mark.parametrize(
    ("left_out", "reasons"),
    [
        (None, {6: "missing_image"}),
        ("compares", {1: "compares", 3: "compares", 5: "compares", 6: "missing_image"}),
        ("hedges", {2: "hedges", 3: "hedges", 6: "missing_image"}),
        (
            "hedges,compares",
            {**dict.fromkeys((1, 3, 5), "compares"), 2: "hedges", 6: "missing_image"},
        ),
    ],
)
def test_they_are_counted_and_left_out_where_asked(
    make_dataset, paths, tmp_path, capsys, left_out, reasons
):
    options = ["--leave-out", left_out] if left_out else []
    out = tmp_path / "out"
    assert main([*paths(make_dataset(*ROWS), out), *options]) == 0
    audit = json.loads((out / "audit.json").read_text())
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    assert {row["source_index"]: row["reason"] for row in rejects} == reasons
    assert audit["beyond_one_image"] == COUNTS
    assert audit["rows"]["conserved"] is True
    assert audit["rows"]["train"] == len(ROWS) - len(reasons)
    assert audit["parameters"]["leave_out"] == sorted((left_out or "").split(",")) * bool(left_out)
    page = (out / "audit.html").read_text()
    assert "earlier examination" in page
    error = capsys.readouterr().err
    count_line = {
        None: "of 6, 3 compare with an earlier examination and 2 hedge between answers; ",
        "compares": "of 3, 2 hedge between answers; ",
        "hedges": "of 4, 3 compare with an earlier examination; ",
        "hedges,compares": None,
    }[left_out]
    if count_line is None:
        assert "--leave-out" not in error
    else:
        assert f"{count_line}--leave-out compares,hedges leaves them out" in error


@pytest.mark.parametrize("value", ["", "stable", "compares,", "compares hedges"])
def test_an_unknown_kind_is_refused(make_dataset, paths, tmp_path, capsys, value):
    assert main([*paths(make_dataset({}), tmp_path / "out"), "--leave-out", value]) == 2
    error = capsys.readouterr().err.strip()
    assert "--leave-out" in error
    assert "compares, hedges" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_phantom_set_with_such_answers(tmp_path, paths, workers):
    made = tmp_path / "set"
    options = ["--images", "700", "--workers", "1", "--beyond", "0.2"]
    assert phantom_main(["--out", str(made), *options]) == 0
    audits = {}
    for name, option in (("all", []), ("left", ["--leave-out", "compares,hedges"])):
        arguments = [*paths(made, tmp_path / name), *option, "--workers", str(workers)]
        assert main(arguments) == 0
        audits[name] = json.loads((tmp_path / name / "audit.json").read_text())
    whole, left = audits["all"], audits["left"]
    counted = whole["beyond_one_image"]
    assert counted == left["beyond_one_image"]
    assert set(counted["compares"]) == {"closed", "multi", "open", "single"}
    assert set(counted["hedges"]) == {"open"}
    assert whole["rejects"] == {}
    assert left["rejects"] == {code: sum(counted[code].values()) for code in counted}
    # A fifth of the rows, and no other: the phantom's own answers stay within their image.
    assert sum(left["rejects"].values()) == pytest.approx(0.2 * whole["rows"]["source"], rel=0.15)
    assert left["rows"]["conserved"] is True
    assert left["rows"]["source"] == whole["rows"]["source"]


def test_the_phantoms_own_answers_stay_within_their_image(phantom, paths, tmp_path):
    assert main([*paths(phantom, tmp_path)]) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert audit["beyond_one_image"] == {"compares": {}, "hedges": {}}
