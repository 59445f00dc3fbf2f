"""Pictures of examples: what is drawn where, and what is said where there is no picture."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from knnseg.database.originals import Originals
from knnseg.errors import DatasetError
from knnseg.sheets import contact_sheet, crops, show

YELLOW = (255, 255, 0)


@pytest.fixture
def three(database, tmp_path):
    """Three files with a square each, newest last."""
    ids = []
    for n in range(3):
        PIL.Image.fromarray(np.full((60, 90, 3), 60 + 50 * n, np.uint8)).save(tmp_path / f"{n}.png")
        mask = np.zeros((1, 60, 90), bool)
        mask[0, 20:40, 30:50] = True
        ids += database.add_masks(tmp_path / f"{n}.png", mask, ["square"], things=[], writer="ann").ids
    return ids


def test_the_outline_is_around_the_mask(database, three):
    picture = np.asarray(show(database, three[1], size=288))
    assert picture.shape == (288, 288, 3), "20 pixels and 8 around: eight times as large"
    yellow = np.argwhere((picture == YELLOW).all(axis=2))
    assert yellow.min(0).tolist() == [63, 63] and yellow.max(0).tolist() == [224, 224]
    assert (picture[80:200, 80:200] == 110).all(), "the mask itself is left as it is"


def test_where_no_mask_was_kept_the_box_is_drawn(database, tmp_path, scene):
    example = scene(1)
    PIL.Image.fromarray(example.image).save(tmp_path / "a.png")
    database.add(replace(example, uri=(tmp_path / "a.png").as_uri()), keep_masks=False)
    (ball,) = database.examples(concept="ball")
    assert ((np.asarray(show(database, ball.id)) == YELLOW).all(axis=2)).any()


def test_an_image_that_is_not_found_is_said_and_looked_for_elsewhere(database, three, tmp_path):
    (tmp_path / "1.png").unlink()
    PIL.Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(DatasetError, match=r"1\.png: not found; give the folder"):
        show(database, three[1])
    with pytest.raises(DatasetError, match=r"2\.png: the file has other pixels now"):
        show(database, three[2])
    with pytest.raises(DatasetError, match="id of an example that is there, got 'none'"):
        show(database, "none")
    (tmp_path / "moved").mkdir()
    PIL.Image.fromarray(np.full((60, 90, 3), 110, np.uint8)).save(tmp_path / "moved" / "x.png")
    assert show(database, three[1], Originals(tmp_path / "moved")).size == (512, 512)


def test_a_sheet_has_a_place_for_each_example_in_order(database, three, tmp_path):
    (tmp_path / "0.png").unlink()
    examples = database.examples(concept="square")
    assert examples.id.tolist() == three[::-1]
    sheet = np.asarray(contact_sheet(database, examples, title="square", columns=2, size=100))
    assert sheet.shape == (36 + 2 * 140 + 8, 2 * 108 + 8, 3)
    middles = [
        sheet[36 + 50, 8 + 50].tolist(),
        sheet[36 + 50, 116 + 50].tolist(),
        sheet[36 + 140 + 97, 8 + 97].tolist(),
    ]
    assert middles == [[160] * 3, [110] * 3, [235] * 3], "the newest first; grey where there is no image"
    assert (sheet[36 + 140 :, 116:-8] == 255).all(), "nothing where there is no example"
    reasons = [made for _, made in crops(database, examples) if isinstance(made, str)]
    assert len(reasons) == 1 and reasons[0].endswith("0.png: not found")
    assert contact_sheet(database, database.examples(limit=0)).size == (216, 16)
