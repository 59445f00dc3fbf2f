"""Predictions in the words of a project; what Label Studio itself makes of them is tested in tests/tools."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from knnseg import Vocabulary
from knnseg.datasets import open_annotations
from knnseg.errors import DatasetError
from knnseg.export import Export
from knnseg.export.label_studio import LabelConfig, prediction, task
from knnseg.method.brush import decode_brush, encode_brush

CONFIG = """<View><Image name="picture" value="$photo"/>
<PolygonLabels name="poly" toName="picture"><Label value="ball"/><Label value="sky"/></PolygonLabels>
<BrushLabels name="brush" toName="picture"><Label value="sky"/><Label value="meadow" alias="grass"/></BrushLabels>
<RectangleLabels name="rect" toName="picture"><Label value="ball"/></RectangleLabels>
<BrushLabels name="other" toName="elsewhere"><Label value="ball"/></BrushLabels></View>"""
BESIDE = """<View><Image name="image" value="$image"/><Labels name="what" toName="image"><Label value="sky"/><Label value="grass"/>
<Label value="ball"/></Labels><Brush name="brush" toName="image"/></View>"""


@pytest.fixture
def result(database, make_segmenter, scene):
    database.add([scene(i) for i in range(3)])
    return make_segmenter(database).predict(scene(9).image, ["sky", "grass", "ball"])


def test_a_brush_is_packed_as_its_reader_unpacks_it():
    rng = np.random.default_rng(0)
    wide = np.zeros((300, 400), bool)
    wide[40:290, :] = True  # runs that are longer than one block
    for mask in (rng.random((12, 20)) < 0.5, wide, np.ones((1, 1), bool), np.zeros((2, 3), bool)):
        values = decode_brush(encode_brush(mask)).reshape(*mask.shape, 4)
        assert np.array_equal(values, np.repeat(mask[..., None] * np.uint8(255), 4, 2))
    assert len(encode_brush(wide)) < 60


def exported(folder, image, config, predicted):
    """What Label Studio exports once somebody has accepted a prediction."""
    Image.fromarray(image).save(folder / "a.png")
    entry = {"id": 1, "data": {config.key: "a.png"}, "annotations": [{"result": predicted["result"]}]}
    (folder / "export.json").write_text(json.dumps([entry]))
    return open_annotations(folder / "export.json", folder)[0]


@pytest.mark.parametrize("xml", [BESIDE, LabelConfig.of(Vocabulary.of(["sky", "grass", "ball"])).xml])
def test_brush_masks_are_read_back_pixel_by_pixel(result, tmp_path, xml):
    config = LabelConfig.parse(xml)
    read = exported(tmp_path, result.image, config, prediction(result, config))
    assert sorted(s.label for s in read.info) == sorted(s.label for s in result.segments_info)
    names = ["sky", "grass", "ball"]
    assert np.array_equal(read.semantic(names), np.where(result.panoptic > 0, result.semantic, -1))


def test_each_class_is_drawn_with_what_the_project_has_for_it(result):
    config = LabelConfig.parse(CONFIG)
    assert (config.image, config.key, config.labels) == ("picture", "photo", ("ball", "sky", "grass"))
    kinds = {}
    for region in prediction(result, config)["result"]:
        assert region["to_name"] == "picture" and (region["original_height"], region["original_width"]) == (48, 64)
        kinds[region["value"][region["type"]][0]] = region["from_name"]
    assert kinds.items() <= {"ball": "poly", "sky": "brush", "grass": "brush"}.items() and "sky" in kinds
    preferred = prediction(result, config, prefer="polygon")["result"]
    assert {r["from_name"] for r in preferred if "polygonlabels" in r["value"]} == {"poly"}
    assert any(r["value"].get("polygonlabels") == ["sky"] for r in preferred)


@pytest.mark.parametrize("kind", ["polygon", "rectangle"])
def test_polygons_and_rectangles_lie_where_the_segment_is(result, tmp_path, kind):
    config = LabelConfig.of(result.vocabulary, kind)
    assert LabelConfig.parse(config.xml) == config
    predicted = prediction(result, config)
    largest = max(result.segments_info, key=lambda segment: segment.area)
    predicted["result"] = [r for r in predicted["result"] if r["id"] == f"knnseg{largest.id}"]
    read = exported(tmp_path, result.image, config, predicted)
    mask = result.panoptic == largest.id
    found = read.segments > 0
    if kind == "polygon":
        assert (found & mask).sum() / mask.sum() > 0.9
    else:
        x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(found, np.uint8)))
        assert x >= largest.box[0] and y >= largest.box[1] and x + w <= largest.box[2] and y + h <= largest.box[3]


def test_classes_that_the_project_does_not_have_are_left_out(result):
    config = LabelConfig.of(Vocabulary.of(["sky"]))
    predicted = prediction(result, config, model_version="photo-1")
    (sky,) = [s for s in result.segments_info if s.label == "sky"]
    assert len(predicted["result"]) == 1 and predicted["score"] == pytest.approx(sky.score)
    assert predicted["model_version"] == "photo-1"
    assert prediction(result, LabelConfig.of(Vocabulary.of(["zebra"]))) == {
        "model_version": "knnseg", "score": 0.0, "result": [],
    }  # fmt: skip


def test_a_run_to_import(result, tmp_path):
    results = [replace(result, source=str(tmp_path / name)) for name in ("a photo.png", "b/c.png")]
    with Export(tmp_path / "out", ["label-studio"], images=tmp_path) as export:
        for one in results:
            assert export.write(one).files == {}  # the files are those of the whole run
    config = LabelConfig.parse((tmp_path / "out" / "label-studio.xml").read_text())
    assert config == LabelConfig.of(result.vocabulary) and export.files["label-studio"].name == "label-studio.json"
    addresses = ["/data/local-files/?d=a%20photo.png", "/data/local-files/?d=b/c.png"]
    tasks = [task(one, config, address) for one, address in zip(results, addresses, strict=True)]
    assert json.loads(export.files["label-studio"].read_text()) == tasks


def test_what_is_unknown_is_no_label_of_a_new_project():
    assert LabelConfig.of(Vocabulary.of(["sky"]).with_unknown()).labels == ("sky",)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View>", "expected XML"),
        ("<View><Text name='a' value='$b'/></View>", "expected one <Image"),
        ("<View><Image name='a' value='$b'/><Choices name='c' toName='a'/></View>", r"<BrushLabels>.*\['Choices'"),
        ("<View><Image name='a' value='$b'/><Brush name='c' toName='a'/></View>", "<BrushLabels>"),
    ],
)
def test_a_configuration_without_a_place_for_segments(xml, message):
    with pytest.raises(DatasetError, match=f"labelling configuration: expected.*{message.removeprefix('expected ')}"):
        LabelConfig.parse(xml)
