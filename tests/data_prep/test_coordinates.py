import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.coordinates import (
    MODEL_FAMILIES,
    Frame,
    clip_unit,
    overhang,
    parse_frame,
    scale_box,
    smart_resize,
)
from data_prep.pictures import Picture
from data_prep.rows.example import Mapper
from reward.grounding import iou

FITS = ("stretch", "pad")
SIDES = st.integers(28, 4000)
BOUNDS = [(3136, 1003520), (12544, 12544), (12544, 15680), (200704, 200704), (3136, 12845056)]


@pytest.mark.parametrize(
    ("size", "factor", "bounds", "expected"),
    [
        ((336, 336), 28, (3136, 1003520), (336, 336)),  # already multiples
        ((3056, 2544), 28, (3136, 1003520), (1092, 896)),  # scaled down
        ((20, 30), 28, (3136, 1003520), (56, 84)),  # scaled up
        ((98, 126), 28, (3136, 1003520), (112, 112)),  # ties go to the even multiple
        ((310, 362), 28, (12544, 15680), (112, 112)),  # what the phantom set is made for
        ((336, 330), 28, (12544, 12544), (112, 84)),  # below the lower bound, bounds too close
        ((3056, 2544), 32, (4096, 1310720), (1248, 1024)),  # Qwen3-VL's factor
    ],
)
def test_smart_resize(size, factor, bounds, expected):
    assert smart_resize(size, factor, *bounds) == expected


@pytest.mark.parametrize(
    ("size", "bounds"),
    [
        ((0, 10), (3136, 1003520)),  # no area
        ((4021, 20), (3136, 1003520)),  # more than 200 to 1
        ((28, 470), (12544, 12544)),  # less than one factor wide when scaled down
    ],
)
def test_smart_resize_refuses_what_has_no_shape(size, bounds):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
        smart_resize(size, 28, *bounds)


@pytest.mark.parametrize("factor", [28, 32])
def test_smart_resize_agrees_with_transformers_and_qwen_vl_utils(factor):
    from qwen_vl_utils.vision_process import smart_resize as utils_resize
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
        smart_resize as transformers_resize,
    )

    sides = [*range(28, 700, 59), 1024, 2544, 3056]
    for low, high in BOUNDS:
        for width in sides:
            for height in sides:
                utils = utils_resize(height, width, factor, low, high)
                if min(utils) == 0:
                    # verl would fail on this picture, so it must be refused here.
                    with pytest.raises(ValueError, match="too narrow"):
                        smart_resize((width, height), factor, low, high)
                    continue
                ours = smart_resize((width, height), factor, low, high)
                theirs = transformers_resize(height, width, factor, low, high)
                assert ours == theirs[::-1] == utils[::-1], (width, height, low, high)


def test_smart_resize_agrees_with_the_processors_real_grid():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=100352)
    for size in [(336, 320), (310, 362), (1024, 300), (57, 90), (640, 480), (28, 28)]:
        grid = processor(images=[Image.new("L", size)], return_tensors="pt")["image_grid_thw"]
        _, rows, columns = grid[0].tolist()
        assert (columns * 14, rows * 14) == smart_resize(size, 28, 3136, 100352)


@given(SIDES, SIDES, st.sampled_from([(3136, 1003520), (12544, 200704)]))
def test_smart_resize_stays_within_bounds_that_leave_room(width, height, bounds):
    size = smart_resize((width, height), 28, *bounds)
    assert all(side % 28 == 0 for side in size)
    assert bounds[0] <= size[0] * size[1] <= bounds[1]


@pytest.mark.parametrize(
    ("frame", "original", "box", "expected"),
    [
        # Stretched: each side by itself.
        (Frame((336, 336)), (672, 336), (84, 42, 168, 336), (0.25, 0.125, 0.5, 1.0)),
        # Padded: the picture takes the middle half of the frame's height.
        (Frame((336, 336), "pad"), (672, 336), (84, 84, 168, 252), (0.25, 0.0, 0.5, 1.0)),
        # Original pixels.
        (Frame(None), (672, 336), (84, 42, 168, 336), (0.125, 0.125, 0.25, 1.0)),
        # A frame that is no square.
        (Frame((400, 200)), (100, 100), (100, 50, 200, 100), (0.25, 0.25, 0.5, 0.5)),
        # Padded at the sides.
        (Frame((224, 224), "pad"), (100, 200), (56, 0, 168, 224), (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_frame_to_unit(frame, original, box, expected):
    assert frame.to_unit(box, original) == pytest.approx(expected)


@given(
    st.sampled_from(
        [Frame((336, 336)), Frame((336, 336), "pad"), Frame((448, 300), "pad"), Frame(None)]
    ),
    st.tuples(SIDES, SIDES),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_frame_round_trip(frame, original, values):
    unit = tuple(values)
    assert frame.to_unit(frame.from_unit(unit, original), original) == pytest.approx(unit, abs=1e-9)


def test_families_write_boxes_in_their_own_space():
    unit = (0.25, 0.5, 0.75, 1.0)
    assert scale_box(unit, MODEL_FAMILIES["qwen2_5_vl"].box_space((112, 224))) == (28, 112, 84, 224)
    assert scale_box(unit, MODEL_FAMILIES["qwen3_vl"].box_space((112, 224))) == (
        250,
        500,
        750,
        1000,
    )


def test_data_is_shared_by_families_with_the_same_boxes_and_tokens():
    qwen2_5, *others = MODEL_FAMILIES.values()
    assert [family.name for family in others if qwen2_5.writes_like(family)] == []
    assert all(family.writes_like(others[0]) for family in others)


def test_the_smallest_picture_is_that_of_the_published_processors():
    """Their `preprocessor_config.json` says 3136 (56 x 56) and 65536 (256 x 256) pixels."""
    smallest = {name: family.default_pixels[0] for name, family in MODEL_FAMILIES.items()}
    assert smallest.pop("qwen2_5_vl") == 3136
    assert set(smallest.values()) == {65536}


@pytest.mark.parametrize(
    ("text", "size"), [("336", (336, 336)), ("448x300", (448, 300)), ("original", None)]
)
def test_parse_frame(text, size):
    assert parse_frame(text) == size


@pytest.mark.parametrize("text", ["", "0", "336x0", "-3", "336x", "axb", "336 x 336"])
def test_parse_frame_refuses(text):
    with pytest.raises(ValueError, match="frame"):
        parse_frame(text)


def test_overhang_and_clip():
    box = (-0.01, 0.2, 0.5, 1.03)
    assert math.isclose(overhang(box), 0.03)
    assert overhang((0, 0, 1, 1)) == 0
    assert clip_unit(box) == (0.0, 0.2, 0.5, 1.0)


def test_qwen3_sizes_agree_with_the_processors_real_grid():
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    # Qwen3-VL uses this processor with patches of 16.
    processor = Qwen2VLImageProcessor(patch_size=16, min_pixels=4096, max_pixels=100352)
    for size in [(336, 320), (310, 362), (1024, 300), (57, 90), (640, 480), (32, 32)]:
        grid = processor(images=[Image.new("L", size)], return_tensors="pt")["image_grid_thw"]
        _, rows, columns = grid[0].tolist()
        assert (columns * 16, rows * 16) == smart_resize(size, 32, 4096, 100352)


FRAMES = st.one_of(
    st.just(Frame(None)),
    st.builds(
        Frame, st.tuples(st.integers(50, 2000), st.integers(50, 2000)), st.sampled_from(FITS)
    ),
)
FAMILIES = st.sampled_from(list(MODEL_FAMILIES.values()))
UNIT_BOXES = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda sides: (*map(min, sides[:2], sides[2:]), *map(max, sides[:2], sides[2:]))
)


def setting(frame, family, original, scale):
    """A mapper, a picture (perhaps a smaller copy of its original) and the model's size."""
    size = (max(28, round(original[0] * scale)), max(28, round(original[1] * scale)))
    mapper = Mapper(frame, family, 3136, 1003520)
    picture = Picture("/a.jpg", size, original)
    return mapper, picture, mapper.model_size(size)


def to_output(box, mapper, picture, image_size):
    """A box in the model's coordinates, neither clipped nor rounded."""
    unit = mapper.frame.to_unit(box, picture.original)
    return scale_box(unit, mapper.family.box_space(image_size))


def from_output(box, mapper, picture, image_size):
    width, height = mapper.family.box_space(image_size)
    unit = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    return mapper.frame.from_unit(unit, picture.original)


@given(FRAMES, FAMILIES, st.tuples(SIDES, SIDES), st.floats(0.1, 1), UNIT_BOXES)
def test_a_box_goes_to_the_model_and_back(frame, family, original, scale, unit):
    mapper, picture, image_size = setting(frame, family, original, scale)
    box = frame.from_unit(unit, original)
    there = to_output(box, mapper, picture, image_size)
    back = from_output(there, mapper, picture, image_size)
    assert back == pytest.approx(box, rel=1e-9, abs=1e-6)


@given(FRAMES, FAMILIES, st.tuples(SIDES, SIDES), st.floats(0.1, 1), UNIT_BOXES)
def test_a_written_box_is_within_half_a_unit(frame, family, original, scale, unit):
    mapper, picture, image_size = setting(frame, family, original, scale)
    box = frame.from_unit(unit, original)
    there = to_output(box, mapper, picture, image_size)
    if min(there[2] - there[0], there[3] - there[1]) <= 1.001:
        return  # it may vanish; tested by itself
    written, is_clipped = mapper.written(box, picture, image_size)
    assert all(side == int(side) for side in written)
    assert written == pytest.approx(there, abs=0.5 + 1e-6)
    # The way back: half a unit of the output grid, in the frame's units.
    steps = from_output((1, 1, 1, 1), mapper, picture, image_size)
    zero = from_output((0, 0, 0, 0), mapper, picture, image_size)
    back = from_output(written, mapper, picture, image_size)
    for side, wanted, step, origin in zip(back, box, steps, zero, strict=True):
        assert abs(side - wanted) <= 0.5 * abs(step - origin) + 1e-6
    assert not is_clipped or overhang(unit) < 1e-9


@given(FRAMES, FAMILIES, st.tuples(SIDES, SIDES), st.lists(UNIT_BOXES, min_size=2, max_size=2))
def test_iou_is_the_same_in_the_frame_and_in_the_models_coordinates(frame, family, original, units):
    mapper, picture, image_size = setting(frame, family, original, 1.0)
    if any(min(x2 - x1, y2 - y1) < 1e-3 for x1, y1, x2, y2 in units):
        return
    boxes = [frame.from_unit(unit, original) for unit in units]
    there = [to_output(box, mapper, picture, image_size) for box in boxes]
    assert iou(*there) == pytest.approx(iou(*boxes), abs=1e-3)


def test_boxes_of_equal_size_that_share_half_overlap_by_a_third():
    assert iou((0, 0, 2, 1), (1, 0, 3, 1)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0
    assert iou((0, 0, 4, 4), (1, 1, 3, 3)) == pytest.approx(1 / 4)
