"""Pictures of masks before and after."""

import numpy as np
import pytest

from bpr.pipeline.demo.drawing import (
    CLOSEUP_SCALE,
    CLOSEUP_SIDE,
    NARROW,
    PALETTE,
    draw_closeups,
    draw_comparison,
)
from bpr.pipeline.instance import Mask

GAP, BAR = 10, 34  # px around panels, and of the caption
HEIGHT, WIDTH = 120, 200
SIDE = CLOSEUP_SIDE * CLOSEUP_SCALE


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def square(x0, y0, x1, y1, size=(HEIGHT, WIDTH)):
    array = np.zeros(size, np.bool_)
    array[y0:y1, x0:x1] = True
    return Mask.from_array(array)


def empty():
    return square(0, 0, 0, 0)


def halves(picture):
    """The panels of a comparison, without caption and paper."""
    width = (picture.shape[1] - 3 * GAP) // 2
    inner = picture[BAR:-GAP]
    return inner[:, GAP : GAP + width], inner[:, 2 * GAP + width : -GAP]


def rows_of(picture):
    """The three panels of every row of the close-ups."""
    return [
        [
            picture[y : y + SIDE, x : x + SIDE]
            for x in range(GAP, picture.shape[1] - GAP, SIDE + GAP)
        ]
        for y in range(BAR, picture.shape[0] - GAP, SIDE + GAP)
    ]


def enlarged(image, scale):
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def test_a_narrow_image_is_shown_at_twice_its_size(image):
    picture = draw_comparison(image, [], [])
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * HEIGHT + BAR + GAP, 4 * WIDTH + 3 * GAP, 3)
    for panel in halves(picture):
        np.testing.assert_array_equal(panel, enlarged(image, 2))


def test_a_wide_image_keeps_its_size():
    image = np.zeros((20, NARROW, 3), np.uint8)
    assert draw_comparison(image, [], []).shape == (20 + BAR + GAP, 2 * NARROW + 3 * GAP, 3)


def test_pixels_away_from_masks_are_untouched(image):
    before, after = square(20, 30, 60, 70), square(25, 30, 60, 70)
    for panel, mask in zip(
        halves(draw_comparison(image, [before], [after])), (before, after), strict=True
    ):
        far = ~mask.to_array()
        x0, y0, x1, y1 = mask.window
        far[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1] = False
        np.testing.assert_array_equal(panel[enlarged(far, 2)], enlarged(image, 2)[enlarged(far, 2)])


def test_a_mask_is_tinted_inside_and_outlined_along_its_pixels():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    panel, _ = halves(draw_comparison(image, [square(20, 30, 60, 70)], [empty()]))
    np.testing.assert_array_equal(panel[100, 80], np.rint(np.array(PALETTE[0]) * 0.25))
    row = panel[100].astype(int).sum(axis=-1)
    assert row[38] == 0  # beyond the dark line
    assert 0 < row[39] < row[42]  # the dark line ends where the mask's first pixel begins
    assert row[40] == row[41] > 3 * row[42]  # the light one lies on it
    assert row[118] == row[119] > row[117]
    assert row[121] == 0


def test_instances_have_colours_of_their_own_in_both_panels():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    masks = [square(20 * i + 4, 30, 20 * i + 16, 70) for i in range(len(PALETTE))]
    for panel in halves(draw_comparison(image, masks, masks)):
        colours = {tuple(panel[100, 40 * i + 20]) for i in range(len(PALETTE))}
        assert len(colours) == len(PALETTE)


def test_an_object_that_the_image_cuts_has_no_outline_along_the_cut():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    panel, _ = halves(draw_comparison(image, [square(0, 30, 60, 70)], [empty()]))
    np.testing.assert_array_equal(panel[100, 0], panel[100, 50])


def test_empty_masks_draw_nothing(image):
    for panel in halves(draw_comparison(image, [empty()], [empty()])):
        np.testing.assert_array_equal(panel, enlarged(image, 2))


def test_inputs_are_left_as_they_were(image):
    copy = image.copy()
    masks = [square(20, 30, 60, 70)], [square(22, 30, 60, 70)]
    draw_comparison(image, *masks)
    draw_closeups(image, *masks)
    np.testing.assert_array_equal(image, copy)


def test_a_close_up_shows_the_plain_image_and_both_outlines(image):
    picture = draw_closeups(image, [square(100, 30, 110, 40)], [square(102, 30, 110, 40)])
    assert picture.dtype == np.uint8
    assert picture.shape == (BAR + SIDE + GAP, 3 * SIDE + 4 * GAP, 3)
    ((plain, before, after),) = rows_of(picture)
    # the change is 2 x 10 pixels around (101, 35): the window lies around that point
    x0, y0 = 101 - CLOSEUP_SIDE // 2, 11
    hits = [
        (x, y)
        for y in range(HEIGHT - CLOSEUP_SIDE + 1)
        for x in range(WIDTH - CLOSEUP_SIDE + 1)
        if np.array_equal(
            plain[::CLOSEUP_SCALE, ::CLOSEUP_SCALE],
            image[y : y + CLOSEUP_SIDE, x : x + CLOSEUP_SIDE],
        )
    ]
    assert len(hits) == 1
    assert max(abs(hits[0][0] - x0), abs(hits[0][1] - y0)) <= 1
    assert not np.array_equal(plain, before)
    assert not np.array_equal(before, after)


def test_outlines_of_close_ups_leave_the_rest_of_each_pixel_visible(image):
    picture = draw_closeups(image, [square(100, 30, 110, 40)], [square(102, 30, 110, 40)])
    ((plain, before, after),) = rows_of(picture)
    centre = slice(CLOSEUP_SCALE // 2, None, CLOSEUP_SCALE)
    for panel in (before, after):
        np.testing.assert_array_equal(panel[centre, centre], plain[centre, centre])


def test_only_changed_instances_appear_in_close_ups(image):
    still, old, new = square(10, 10, 40, 40), square(120, 50, 160, 90), square(123, 50, 160, 90)
    with_still = draw_closeups(image, [still, old], [still, new])
    assert len(rows_of(with_still)) == 1
    # and where an unchanged instance lies in the window of a changed one, it is not drawn
    close = square(130, 60, 140, 70)
    np.testing.assert_array_equal(
        draw_closeups(image, [old, close], [new, close]), draw_closeups(image, [old], [new])
    )


def test_every_changed_instance_has_a_place_before_one_has_two():
    image = np.zeros((400, 400, 3), np.uint8)
    size = (400, 400)
    big = square(10, 10, 300, 100, size), square(10, 10, 300, 60, size)
    small = square(200, 300, 220, 320, size), square(200, 300, 220, 318, size)
    image[290:330, 190:230] = 255
    picture = draw_closeups(image, [big[0], small[0]], [big[1], small[1]], count=2)
    plain = [row[0].max() for row in rows_of(picture)]
    assert plain == [0, 255]


def test_count_limits_the_places():
    image = np.zeros((400, 400, 3), np.uint8)
    before, after = square(10, 10, 390, 200, (400, 400)), square(10, 10, 390, 195, (400, 400))
    assert len(rows_of(draw_closeups(image, [before], [after], count=3))) == 3
    assert len(rows_of(draw_closeups(image, [before], [after]))) == 4


def test_without_changes_there_is_only_a_caption(image):
    mask = square(20, 30, 60, 70)
    for masks in ([], [mask], [empty()]):
        picture = draw_closeups(image, masks, masks)
        assert picture.dtype == np.uint8
        assert (picture.shape[0], picture.shape[2]) == (BAR, 3)


def test_a_mask_that_appears_or_vanishes_is_a_change(image):
    mask = square(20, 30, 60, 70)
    assert len(rows_of(draw_closeups(image, [empty()], [mask], count=1))) == 1
    assert len(rows_of(draw_closeups(image, [mask], [empty()], count=1))) == 1


def test_an_image_smaller_than_a_close_up_is_shown_whole():
    image = np.zeros((20, 30, 3), np.uint8)
    picture = draw_closeups(
        image, [square(5, 5, 15, 15, (20, 30))], [square(5, 5, 15, 14, (20, 30))]
    )
    assert picture.shape == (
        BAR + 20 * CLOSEUP_SCALE + GAP,
        3 * 30 * CLOSEUP_SCALE + 4 * GAP,
        3,
    )


@pytest.mark.parametrize("draw", [draw_comparison, draw_closeups])
def test_what_does_not_fit_is_refused(image, draw):
    mask = square(20, 30, 60, 70)
    with pytest.raises(ValueError, match="as many after as before, got 0 after 1"):
        draw(image, [mask], [])
    with pytest.raises(ValueError, match="the size of the image"):
        draw(image[:-1], [mask], [mask])
    with pytest.raises(ValueError, match="image: expected uint8"):
        draw(image[..., 0], [mask], [mask])
