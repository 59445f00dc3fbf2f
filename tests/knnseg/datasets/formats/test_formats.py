"""Every format reads the same scene, as its tool writes it, into the same segments."""

import base64
import io
import json
import math
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from knnseg.cli.sources import examples
from knnseg.datasets import annotation_formats, from_detections, open_annotations
from knnseg.datasets._classes import benchmark_classes
from knnseg.errors import DatasetError, MaskError, VocabularyError
from knnseg.method.brush import decode_brush

H, W = 12, 20
BLOCK = np.zeros((H, W), bool)
BLOCK[3:9, 5:16] = True
BLOCK[4, 7] = False  # a hole, which a polygon has not
SQUARE = np.zeros((H, W), bool)
SQUARE[2:8, 4:14] = True
CORNERS = [[4, 2], [14, 2], [14, 8], [4, 8]]
FLAT = [v for corner in CORNERS for v in corner]
# Made by the encoder of label-studio-sdk 2.1.2 from BLOCK, with the pixels 1 to 3 of row 10 besides.
BRUSH = [
    0, 0, 3, 192, 57, 27, 255, 1, 3, 0, 197, 127, 248, 140, 2, 127, 248, 192, 48, 255, 254, 35, 0, 197, 127, 248, 140, 3, 21, 255, 226,
    48, 12, 87, 255, 136, 192, 49, 95, 254, 99, 0, 183, 255, 163, 192, 0,
]  # fmt: skip


def png(mask):
    with io.BytesIO() as file:
        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(tmp_path / "images" / "photo.png")
    return tmp_path


def coco(folder, annotations, **image):
    image = {"id": 7, "file_name": "photo.png", "height": H, "width": W} | image
    content = {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "kettle"}, {"id": 5, "name": "tea, green"}],
    }
    return write(folder, "instances.json", content)


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / name


def coco_polygon(folder):
    return coco(
        folder,
        [{"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": [FLAT], "bbox": [4, 2, 10, 6]}],
    )


def coco_counts(folder):
    runs = np.flatnonzero(np.diff(SQUARE.ravel("F").astype(np.int8), prepend=0, append=0))
    counts = np.diff([0, *runs, H * W]).tolist()
    return coco(
        folder, [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": {"counts": counts, "size": [H, W]}}]
    )


def coco_compressed(folder):
    code = coco_mask.encode(np.asfortranarray(SQUARE.astype(np.uint8)))
    code["counts"] = code["counts"].decode()
    return coco(folder, [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": code}])


def lvis(folder):
    made = [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [FLAT]}]
    more = {"neg_category_ids": [5], "not_exhaustive_category_ids": []}
    path = coco(folder, made, coco_url="http://images.cocodataset.org/images/photo.png", **more)
    content = json.loads(path.read_text())
    del content["images"][0]["file_name"]
    return write(folder, path.name, content)


def labelme(folder, *shapes, **other):
    content = {
        "version": "6.3.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "photo.png",
        "imageData": None,
        "imageHeight": H,
        "imageWidth": W,
    }
    return write(folder, "photo.json", content | other)


def labelme_shape(kind, points, label="kettle", **other):
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    } | other


def labelme_polygon(folder):
    return labelme(folder, labelme_shape("polygon", CORNERS))


def labelme_mask(folder):
    return labelme(folder, labelme_shape("mask", [[4.0, 2.0], [13.0, 7.0]], mask=png(SQUARE[2:8, 4:14])))


def labelme_inside(folder):
    data = base64.b64encode((folder / "images" / "photo.png").read_bytes()).decode()
    return labelme(folder, labelme_shape("polygon", CORNERS), imageData=data, imagePath="..\\elsewhere\\gone.jpg")


def labelme_folder(folder):
    return labelme_polygon(folder).parent


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>kettle</name></label><label><name>tea, green</name></label></labels></task></meta>
<image id="0" name="photo.png" width="20" height="12">{}</image></annotations>"""


def cvat_polygon(folder):
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in CORNERS)
    return write(
        folder,
        "annotations.xml",
        CVAT.format(f'<polygon label="kettle" source="manual" occluded="0" points="{points}" z_order="0"></polygon>'),
    )


def cvat_mask(folder):
    return write(
        folder, "annotations.xml",
        CVAT.format('<mask label="kettle" source="manual" occluded="0" rle="0, 60" left="4" top="2" width="10" height="6" z_order="0"></mask>'),
    )  # fmt: skip


def cvat_turned_box(folder):
    """A box of 6×10 around the same centre, turned by 90 degrees."""
    return write(
        folder,
        "annotations.xml",
        CVAT.format('<box label="kettle" xtl="6" ytl="0" xbr="12" ybr="10" rotation="90" z_order="0"/>'),
    )


def label_studio(folder, *results, image="/data/upload/1/a1b2c3d4-photo.png", **annotation):
    for n, result in enumerate(results):
        result.update(
            {
                "id": f"r{n}",
                "from_name": "label",
                "to_name": "image",
                "original_width": W,
                "original_height": H,
                "image_rotation": 0,
            }
        )
    task = {
        "id": 12,
        "data": {"image": image},
        "annotations": [{"id": 1, "was_cancelled": False, "result": list(results)} | annotation],
        "predictions": [],
    }
    return write(folder, "export.json", [task])


def label_studio_polygon(folder):
    points = [[100 * x / W, 100 * y / H] for x, y in CORNERS]
    return label_studio(
        folder, {"type": "polygonlabels", "value": {"points": points, "closed": True, "polygonlabels": ["kettle"]}}
    )


def label_studio_local(folder):
    path = label_studio_polygon(folder)
    content = json.loads(path.read_text())
    content[0]["data"]["image"] = "/data/local-files/?d=photos%2Fphoto.png"
    return write(folder, path.name, content)


def yolo(folder, line=None):
    (folder / "labels").mkdir()
    line = line or "1 " + " ".join(str(v / (W, H)[i % 2]) for i, v in enumerate(FLAT))
    write(folder / "labels", "photo.txt", line + "\n")
    return write(folder, "data.yaml", "path: .\ntrain: images\nnames:\n  0: tea, green\n  1: kettle\n")


def coco_folder(folder):
    return coco_polygon(folder).parent


def label_studio_folder(folder):
    return label_studio_polygon(folder).parent


def yolo_folder(folder):
    return yolo(folder).parent


WRITTEN = [
    coco_polygon, coco_counts, coco_compressed, lvis, labelme_polygon, labelme_mask, labelme_inside, labelme_folder, cvat_polygon, cvat_mask,
    cvat_turned_box, label_studio_polygon, label_studio_local, yolo, yolo_folder, coco_folder, label_studio_folder,
]  # fmt: skip


@pytest.mark.parametrize("written", WRITTEN, ids=lambda f: f.__name__)
def test_one_scene_in_every_format(folder, written):
    dataset = open_annotations(written(folder))
    assert len(dataset) == 1 and "kettle" in dataset.vocabulary.names and not dataset.left_out
    example = dataset[0]
    assert [(segment.label, segment.thing) for segment in example.info] == [("kettle", True)]
    assert np.array_equal(example.segments != 0, SQUARE)
    assert example.image.shape == (H, W, 3) and example.image[0, 0, 0] == 90


@pytest.mark.parametrize("written", WRITTEN, ids=lambda f: f.__name__)
def test_images_in_a_folder_of_their_own(folder, written, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("photos")
    path = written(folder)
    (folder / "images" / "photo.png").rename(elsewhere / ("gone.jpg" if written is labelme_inside else "photo.png"))
    dataset = open_annotations(path, elsewhere)
    assert np.array_equal(dataset[0].segments != 0, SQUARE) and str(elsewhere) in dataset[0].uri


def test_a_brush_of_label_studio(folder):
    rgba = decode_brush(bytes(BRUSH)).reshape(H, W, 4)
    expected = BLOCK.copy()
    expected[10, 1:4] = True
    assert np.array_equal(rgba, np.repeat(expected[..., None] * 255, 4, axis=2))
    written = label_studio(
        folder, {"type": "brushlabels", "value": {"format": "rle", "rle": BRUSH, "brushlabels": ["kettle"]}}
    )
    assert np.array_equal(open_annotations(written)[0].segments != 0, expected)
    for broken in (BRUSH[:20], BRUSH[:3], [*BRUSH[:3], 0, *BRUSH[4:]], ["x"]):
        written = label_studio(
            folder, {"type": "brushlabels", "value": {"format": "rle", "rle": broken, "brushlabels": ["kettle"]}}
        )
        with pytest.raises(
            DatasetError, match=r"export\.json.*result\[0\]\.value\.rle: expected the bytes of a brush mask of 12×20"
        ):
            open_annotations(written)


def test_label_studio_takes_the_truth_or_the_last_and_joins_separate_controls(folder):
    points = [[100 * x / W, 100 * y / H] for x, y in CORNERS]
    outline = {"type": "polygon", "value": {"points": points}}
    path = label_studio(folder, outline, {"type": "labels", "value": {"labels": ["kettle"]}})
    content = json.loads(path.read_text())
    results = content[0]["annotations"][0]["result"]
    results[1]["id"] = results[0]["id"]
    other = [{**results[0], "value": {"points": points, "polygonlabels": ["cup"]}, "id": "z"}]
    wrong = {"was_cancelled": True, "result": other}
    content[0]["annotations"] = [
        {"result": other, "updated_at": "2026-01-01"},
        {"result": results, "updated_at": "2026-02-01"},
        wrong,
    ]
    dataset = open_annotations(write(folder, "export.json", content))
    assert [segment.label for segment in dataset[0].info] == ["kettle"]
    content[0]["annotations"][0]["ground_truth"] = True
    assert open_annotations(write(folder, "export.json", content)).vocabulary.names == ("cup",)


FILES = Path(__file__).parent / "files"


def test_what_label_studio_exports(folder, tmp_path):
    """Files that Label Studio 1.23.0 exported from a project of ours, in four of its formats."""
    Image.open(folder / "images" / "photo.png").save(folder / "images" / "7f999165-photo.png")
    dataset = open_annotations(FILES / "label_studio.json", folder / "images")
    example = dataset[0]
    assert [segment.label for segment in example.info] == ["kettle", "grass", "kettle", "sun"]
    assert dataset.left_out == ("1 points of 'kettle'",) and dataset.outlined == 1 and example.image_id == "1"
    kettle, grass = (example.segments == number for number in (1, 2))
    assert (
        np.array_equal(kettle, SQUARE & (example.segments == 1))
        and (SQUARE & ~kettle & (example.segments == 0)).sum() == 0
    )
    assert grass[10, 1:4].all() and grass.any()
    (tmp_path / "yolo").mkdir()
    shutil.copytree(FILES / "label_studio_yolo", tmp_path / "yolo", dirs_exist_ok=True)
    for path in (tmp_path / "yolo", tmp_path / "yolo" / "classes.txt", FILES / "label_studio_voc.xml"):
        boxes = open_annotations(path, folder / "images")
        assert boxes.outlined == 1 and boxes.vocabulary.names == ("kettle",)
        assert set(np.nonzero(boxes[0].segments)[1].tolist()) <= set(range(14, 19))
    outlines = open_annotations(FILES / "label_studio_coco.json", folder / "images")  # brushes as polygons
    assert [segment.label for segment in outlines[0].info] == ["kettle", "grass", "kettle"] and outlines.outlined == 1
    assert (outlines[0].segments == 1).any() and not (outlines[0].segments == 1)[~SQUARE].any()


@pytest.mark.parametrize("name", ["Kühe (2), am Bach.png", "🐑 sheep.png"])
def test_a_photograph_that_label_studio_has_renamed_is_found(folder, name):
    """Django, with which uploads are kept, takes spaces for underscores, and leaves out brackets, commas, pictures."""
    (folder / "images" / "photo.png").rename(folder / "images" / name)
    called = {"Kühe (2), am Bach.png": "Kühe_2_am_Bach.png", "🐑 sheep.png": "_sheep.png"}[name]
    (task,) = json.loads((FILES / "label_studio.json").read_text())
    task |= {"data": {"image": f"/data/upload/1/7f999165-{quote(called)}"}, "file_upload": f"7f999165-{called}"}
    (example,) = open_annotations(write(folder, "export.json", [task]), folder / "images")
    assert example.uri == (folder / "images" / name).as_uri()


def test_the_short_export_of_label_studio_says_the_same(folder):
    """As its converter, label-studio-sdk 2.1, makes it of the other."""
    Image.open(folder / "images" / "photo.png").save(folder / "images" / "7f999165-photo.png")
    whole, short = (open_annotations(FILES / f"label_studio{kind}.json", folder / "images") for kind in ("", "_min"))
    assert (short.left_out, short.outlined, short[0].image_id) == (whole.left_out, 1, "1")
    regions = [{(s.label, (e.segments == s.id).tobytes()) for s in e.info} for e in (whole[0], short[0])]
    assert regions[0] == regions[1]
    twice = json.loads((FILES / "label_studio_min.json").read_text())
    older = twice[0] | {"updated_at": "2025", "poly": [{**twice[0]["poly"][0], "polygonlabels": ["cup"]}]}
    read = open_annotations(write(folder, "min.json", [*twice, older]), folder / "images")
    assert len(read) == 1 and read.vocabulary.names == whole.vocabulary.names


def test_what_fiftyone_exports(tmp_path):
    """Files that FiftyOne 1.22.0 exported as FiftyOneDataset: detections with predictions beside them, and others."""
    dataset = open_annotations(FILES / "fiftyone")
    (example,) = dataset
    assert [s.label for s in example.info] == ["kettle", "cup"] and dataset.outlined == 1
    kettle = SQUARE.copy()
    kettle[2, 4] = False
    assert np.array_equal(example.segments == 1, kettle) and example.uri.endswith("fiftyone/data/photo.png")
    (example,) = open_annotations(FILES / "fiftyone_segmentation" / "samples.json")
    classes = example.semantic(["kettle", "tea, green"])
    assert (
        np.array_equal(classes == 0, SQUARE) and (classes[8:] == 1).all() and {s.thing for s in example.info} == {None}
    )
    lines = open_annotations(FILES / "fiftyone_polylines")
    assert lines.left_out == ("1 points of 'crack'",) and (lines[0].segments[8:] == 1).all()
    shutil.copytree(FILES / "fiftyone", tmp_path / "own")
    text = (tmp_path / "own" / "samples.json").read_text()
    (tmp_path / "own" / "samples.json").write_text(text.replace('"ground_truth"', '"drawn"'))
    with pytest.raises(
        DatasetError, match=r"samples\.json: expected labels in the field 'ground_truth', .*drawn, predictions"
    ):
        open_annotations(tmp_path / "own")
    (tmp_path / "own" / "samples.json").write_text(text.replace('"base64": "', '"base64": "AAAA'))
    with pytest.raises(
        DatasetError, match=r"samples\[0\]\.ground_truth\.detections\[0\]\.mask.*expected an array of NumPy"
    ):
        open_annotations(tmp_path / "own")


TABLE = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nkettle:128,0,0::\ntea, green: hot:0,128,0::\n"


def colours(folder, table=TABLE, palette=False):
    """As CVAT exports "Segmentation mask 1.1": two kettles side by side on tea."""
    for name in ("SegmentationClass", "SegmentationObject"):
        (folder / name).mkdir(exist_ok=True)
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[8:] = (0, 128, 0)
    pixels[SQUARE] = (128, 0, 0)
    objects = pixels.copy()
    objects[2:8, 4:9] = (0, 0, 128)
    for name, array in (("SegmentationClass", pixels), ("SegmentationObject", objects)):
        picture = Image.fromarray(array)
        (picture.quantize(8) if palette else picture).save(folder / name / "photo.png")
    return write(folder, "labelmap.txt", table)


@pytest.mark.parametrize("palette", [False, True])
def test_maps_in_colours(folder, palette):
    path = colours(folder, palette=palette)
    for source in (path, folder):
        (example,) = open_annotations(source)
        assert [(s.label, s.thing) for s in example.info if s.label == "kettle"] == [("kettle", True)] * 2
        assert np.array_equal(example.semantic(["kettle"]) == 0, SQUARE)
        assert (example.semantic(["tea, green: hot"])[8:] == 0).all() and (example.segments[:2] == 0).all()
        assert len(np.unique(example.segments[SQUARE])) == 2
    assert open_annotations(path, stuff=["kettle"]).vocabulary.things == {"tea, green: hot"}
    shutil.rmtree(folder / "SegmentationObject")
    dataset = open_annotations(path, folder / "images")
    assert not dataset.vocabulary.things and [s.thing for s in dataset[0].info] == [None, None]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            TABLE.replace("0,128,0", "0,129,0"),
            r"photo\.png: expected colours of .*labelmap\.txt, got \(0, 128, 0\) at \(0, 8\)",
        ),
        (TABLE.replace("0,128,0", "0,256,0"), r"labelmap\.txt:4: expected NAME:R,G,B with numbers up to 255, got 'tea"),
        (TABLE.replace("0,128,0", "128,0,0"), r"labelmap\.txt:4: expected a colour that no other class has; 'kettle'"),
        ("background:0,0,0::", r"labelmap\.txt: expected a colour of at least one class"),
        ("kettle", r"labelmap\.txt:1: expected NAME:R,G,B.*, or alone the name of a ready table, cityscapes, got"),
        ("cityscapes\nkettle:1,2,3", r"labelmap\.txt:1: expected NAME:R,G,B with numbers up to 255, got 'cityscapes'"),
    ],
)
def test_tables_of_colours_that_are_wrong(folder, table, expected):
    with pytest.raises(DatasetError, match=expected):
        open_annotations(colours(folder, table))[0]


def test_the_colours_of_cityscapes_are_known_by_name(folder):
    path = colours(folder, "# as published\ncityscapes\n")
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[8:], pixels[SQUARE], pixels[0] = (128, 64, 128), (0, 0, 142), (111, 74, 0)
    Image.fromarray(pixels).save(folder / "SegmentationClass" / "photo.png")
    shutil.rmtree(folder / "SegmentationObject")
    labelled = open_annotations(path, folder / "images")
    assert labelled.vocabulary.names == benchmark_classes("cityscapes").vocabulary.names
    (example,) = labelled
    assert np.array_equal(example.semantic(["car"]) == 0, SQUARE) and {s.label for s in example.info} == {"car", "road"}


def test_detections_of_supervision_are_a_labelled_image(folder):
    supervision = pytest.importorskip("supervision")
    photo = folder / "images" / "photo.png"
    boxes = np.array([[4, 2, 14, 8], [0, 9, 20, 12]], np.float32)
    masks = np.stack([SQUARE, np.arange(H)[:, None] * np.ones(W, int) > 8])
    found = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.array([1, 0]))
    example = from_detections(photo, found, ["tea", "kettle"], stuff=["tea"])
    assert [(s.label, s.thing) for s in example.info] == [("kettle", True), ("tea", False)]
    assert np.array_equal(example.segments == 1, SQUARE) and example.uri == photo.as_uri()
    with pytest.raises(VocabularyError, match=r"class_id \[1, 0\] and 1 names"):
        from_detections(photo, found, ["tea"])
    named = supervision.Detections(xyxy=boxes, data={"class_name": np.array(["cup", "tea"])})
    assert (example := from_detections(photo, named)).info[0].label == "cup" and (example.segments == 2).any()
    with pytest.raises(DatasetError, match="boxes: expected outline for detections without masks, got 'leave'"):
        from_detections(photo, named, boxes="leave")
    with pytest.raises(MaskError, match=r"masks of \(12, 20\) like the image, got \(6, 20\)"):
        from_detections(photo, supervision.Detections(xyxy=boxes, mask=masks[:, :6], class_id=np.array([0, 0])), ["a"])


def test_ellipses_and_boxes_that_are_turned(folder):
    """A box is turned around its first corner: this one lies flat, and its corner is at the lower left of the square."""
    box = {
        "x": 100 * 4 / W,
        "y": 100 * 8 / H,
        "width": 100 * 6 / W,
        "height": 100 * 10 / H,
        "rotation": 270,
        "rectanglelabels": ["kettle"],
    }
    assert np.array_equal(
        open_annotations(label_studio(folder, {"type": "rectanglelabels", "value": box}))[0].segments != 0, SQUARE
    )
    oval = {
        "x": 50,
        "y": 50,
        "radiusX": 100 * 3 / W,
        "radiusY": 100 * 5 / H,
        "rotation": 90,
        "ellipselabels": ["kettle"],
    }
    found = open_annotations(label_studio(folder, {"type": "ellipselabels", "value": oval}))[0].segments != 0
    twin = '<ellipse label="kettle" cx="10" cy="6" rx="5" ry="3" z_order="0"/>'
    assert np.array_equal(found, open_annotations(write(folder, "a.xml", CVAT.format(twin)))[0].segments != 0)
    assert found.sum() == pytest.approx(math.pi * 15, rel=0.1) and found.any(0).sum() == 10 and found.any(1).sum() == 6


def test_the_smaller_lies_on_top_and_crowds_below(folder):
    def box(number, category, x0, y0, x1, y1, **other):
        return {
            "id": number,
            "image_id": 7,
            "category_id": category,
            "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        } | other

    crowd = np.zeros((H, W), np.uint8)
    crowd[:, :8] = 1
    code = coco_mask.encode(np.asfortranarray(crowd))
    path = coco(folder, [
        box(1, 3, 2, 2, 6, 6), box(2, 3, 0, 0, 10, 10),
        {"id": 3, "image_id": 7, "category_id": 5, "iscrowd": 1, "segmentation": {"size": [H, W], "counts": code["counts"].decode()}},
    ])  # fmt: skip
    example = open_annotations(path)[0]
    assert example.segments[3, 3] == 1 and example.segments[0, 0] == 2 and example.segments[11, 0] == 0
    assert [segment.label for segment in example.info] == ["kettle", "kettle"]
    semantic = example.semantic(["kettle", "tea, green"])
    assert semantic[3, 3] == 0 and semantic[11, 0] == 1 and semantic[11, 12] == -1


def test_shapes_of_one_group_are_one_object_and_a_higher_layer_lies_on_top(folder):
    left, right = [[0, 0], [4, 0], [4, 4], [0, 4]], [[10, 0], [14, 0], [14, 4], [10, 4]]
    path = labelme(
        folder,
        *(labelme_shape("polygon", points, group_id=2) for points in (left, right)),
        labelme_shape("circle", [[10, 8], [10, 11]], "sun"),
    )
    example = open_annotations(path)[0]
    assert sorted(segment.label for segment in example.info) == ["kettle", "sun"]
    number = next(segment.id for segment in example.info if segment.label == "kettle")
    assert (example.segments == number).sum() == 32
    assert (example.segments > 0).sum() - 32 == pytest.approx(math.pi * 9, rel=0.2)
    shapes = '<polygon label="kettle" points="0,0;4,0;4,4;0,4" z_order="0"/><polygon label="tea, green" points="0,0;8,0;8,8;0,8" z_order="1"/>'
    example = open_annotations(write(folder, "a.xml", CVAT.format(shapes)))[0]
    assert {segment.label for segment in example.info if (example.segments == segment.id).any()} == {"tea, green"}


BOXES = {
    "coco": lambda f: coco(f, [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [], "bbox": [4, 2, 10, 6]}]),
    "labelme": lambda f: labelme(f, labelme_shape("rectangle", [[4, 2], [14, 8]])),
    "cvat": lambda f: write(f, "a.xml", CVAT.format('<box label="kettle" xtl="4" ytl="2" xbr="14" ybr="8"/>')),
    "voc": lambda f: write(f, "a.xml", "<annotation><filename>photo.png</filename><size><width>20</width><height>12</height><depth>3</depth></size>"
                           "<object><name>kettle</name><bndbox><xmin>5</xmin><ymin>3</ymin><xmax>14</xmax><ymax>8</ymax></bndbox></object></annotation>"),
    "label_studio": lambda f: label_studio(f, {"type": "rectanglelabels", "value": {"x": 20, "y": 100 / 6, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["kettle"]}}),
    "yolo": lambda f: yolo(f, "1 0.45 0.41667 0.5 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOXES)
def test_a_box_becomes_the_outline_of_what_is_inside_or_is_left(folder, name):
    path = BOXES[name](folder)
    pixels = np.full((H, W, 3), 90, np.uint8)
    pixels[3:7, 6:12] = (200, 30, 30)
    Image.fromarray(pixels).save(folder / "images" / "photo.png")
    dataset = open_annotations(path)
    assert dataset.outlined == 1 and not dataset.left_out and not (dataset[0].segments[~SQUARE] != 0).any()
    found, true = dataset[0].segments != 0, pixels[..., 1] == 30
    assert (found & true).sum() / (found | true).sum() > 0.6
    with pytest.raises(DatasetError, match="expected polygons, masks or boxes, got 1 boxes of 'kettle'"):
        open_annotations(path, boxes="leave")
    with pytest.raises(DatasetError, match=r"boxes: expected outline, leave, or an object with .*, got 'guess'"):
        open_annotations(path, boxes="guess")


def test_boxes_and_points_beside_polygons_are_said(folder, capsys):
    box, point = labelme_shape("rectangle", [[4, 2], [14, 8]], "cup"), labelme_shape("point", [[1, 1]], "cup")
    path = labelme(folder, labelme_shape("polygon", CORNERS), box, point)
    assert examples(None, None, None, "", annotations=path).left_out == ("1 points of 'cup'",)
    said = capsys.readouterr().err
    assert "outlines were guessed from colours in 1 boxes or around points; --leave-boxes uses no boxes" in said
    assert "1 kinds of shapes have no outline: 1 points of 'cup'" in said
    assert examples(None, None, None, "", annotations=path, leave_boxes=True).left_out == (
        "1 boxes of 'cup'",
        "1 points of 'cup'",
    )
    assert "guessed" not in capsys.readouterr().err


def test_a_point_becomes_a_guess_at_the_object_around_it(folder):
    pixels = np.full((H, W, 3), 90, np.uint8)
    pixels[3:8, 6:12] = (200, 30, 30)
    Image.fromarray(pixels).save(folder / "images" / "photo.png")
    path = labelme(folder, labelme_shape("point", [[9, 5]]))
    dataset = open_annotations(path, points="outline")
    found, true = dataset[0].segments != 0, pixels[..., 1] == 30
    assert dataset.outlined == 1 and not dataset.left_out and (found & true).sum() / (found | true).sum() > 0.6
    with pytest.raises(DatasetError, match=r"points: expected outline, leave, or an object with .*, got 'sam'"):
        open_annotations(path, points="sam")
    outside = open_annotations(labelme(folder, labelme_shape("point", [[90, 5]])), points="outline")
    with pytest.raises(DatasetError, match=r"shape 0 \('kettle'\): expected a point inside of 12×20 pixels"):
        outside[0]


class Halves:
    """Of a box its left half; of points the pixels that they are on."""

    def masks(self, image, boxes=(), points=()):
        found = np.zeros((len(boxes) + len(points), *image.shape[:2]), bool)
        for mask, (left, top, right, bottom) in zip(found, np.array(boxes, int).reshape(-1, 4), strict=False):
            mask[top:bottom, left : (left + right) // 2] = True
        for mask, group in zip(found[len(boxes) :], points, strict=True):
            mask[tuple(group.astype(int).T[::-1])] = True
        return found


def test_an_object_makes_masks_of_boxes_and_points_each_for_its_shape(folder):
    shapes = [
        labelme_shape("point", [[18, 9]], "spout"),
        labelme_shape("rectangle", [[0, 2], [4, 8]], "cup"),
        labelme_shape("polygon", [[15, 0], [18, 0], [18, 3], [15, 3]], "lid"),
        labelme_shape("rectangle", [[6, 2], [30, 8]], "pot"),
    ]
    one = open_annotations(labelme(folder, *shapes), boxes=Halves(), points=Halves())
    segments = one[0].segments
    assert one.outlined == 3 and [s.label for s in one[0].info] == ["spout", "cup", "pot", "lid"]
    assert (np.argwhere(segments == 1) == [[9, 18]]).all() and (segments == 1).sum() == 1
    assert (segments[2:8, :2] == 2).all() and (segments == 2).sum() == 12
    assert (segments[2:8, 6:13] == 3).all() and (segments == 3).sum() == 42  # cut off at the edge of the image, 20
    assert not open_annotations(labelme(folder, *shapes), boxes=Halves(), points="leave")[0].segments[9, 18]


def test_an_object_must_make_one_mask_of_the_size_of_the_image_for_each(folder):
    class Wrong:
        def masks(self, image, boxes=(), points=()):
            return np.zeros((len(boxes), 3, 3), bool)

    path = labelme(folder, labelme_shape("rectangle", [[0, 2], [4, 8]], "cup"))
    with pytest.raises(
        DatasetError, match=r"expected bool masks \(1, 12, 20\) of its boxes or points, got bool \(1, 3, 3\)"
    ):
        open_annotations(path, boxes=Wrong())[0]


BAD = [
    ("a.json", "{", r"a\.json: expected a JSON file"),
    ("a.json", "{}", r"expected annotations of one format, got none of these\. (.|\n)*coco: COCO"),
    ("a.txt", "x", r"got none of these"),
    ("a.xml", "<annotations>", r"a\.xml: expected an XML file"),
    ("a.xml", CVAT.format('<polygon label="kettle" points="1,2;x,4"/>'), r"image 0: polygon\.points: expected pairs of numbers x,y"),
    ("a.xml", CVAT.format('<polygon points="1,2;3,4;5,6"/>'), r"a\.xml: image 0: polygon: expected the attribute 'label'"),
    ("a.xml", CVAT.format('<mask label="a" rle="0,3" left="0" top="0" width="2" height="2"/>'), r"mask\.rle: expected runs of 4 pixels together, got 3"),
    ("a.xml", "<annotation><object/></annotation>", r"a\.xml: expected the element filename"),
    ("data.yaml", "names: 3", r"data\.yaml: names: expected class names, in a list or by number, got 3"),
    ("data.yaml", "names: [", r"data\.yaml: expected a YAML file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_names_itself_the_place_and_what_was_expected(folder, name, content, message):
    with pytest.raises(DatasetError, match=message):
        open_annotations(write(folder, name, content))


def test_other_mistakes(folder):
    with pytest.raises(DatasetError, match="nowhere: expected a file or folder of annotations, got no such file"):
        open_annotations(folder / "nowhere")
    path = coco_polygon(folder)
    with pytest.raises(DatasetError, match=r"expected a format of coco, .*got 'cocoo'. Did you mean 'coco'\?"):
        open_annotations(path, format="cocoo")
    with pytest.raises(DatasetError, match="images: expected a folder"):
        open_annotations(path, folder / "photos")
    with pytest.raises(
        DatasetError, match=r"annotations\[0\]\.category_id: expected the id of a category of this file, got 9"
    ):
        open_annotations(coco(folder, [{"id": 1, "image_id": 7, "category_id": 9, "segmentation": [FLAT]}]))
    with pytest.raises(DatasetError, match=r"annotations\[0\]\.segmentation\[0\]: expected a list of numbers, got"):
        open_annotations(coco(folder, [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [["a"]]}]))
    with pytest.raises(
        DatasetError, match=r"images\[0\]: shape 0 \('kettle'\): expected polygons of at least three corners"
    ):
        open_annotations(coco(folder, [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[1, 2, 3, 4]]}]))[0]
    with pytest.raises(DatasetError, match=r"photo\.txt:1: expected a class of \[0, 1\], got 7\.0"):
        open_annotations(yolo(folder, "7 0 0 1 0 1 1"))


def test_an_image_that_is_missing_doubled_or_of_another_size(folder):
    path = coco_polygon(folder)
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder / "images" / "photo.png")
    with pytest.raises(
        DatasetError, match=r"images\[0\]: expected an image of \(12, 20\), as it was labelled, got \(5, 5\)"
    ):
        open_annotations(path)[0]
    (folder / "images" / "photo.png").unlink()
    with pytest.raises(
        DatasetError, match=r"expected its image 'photo\.png' below .* got no such file. Give the folder"
    ):
        open_annotations(path)[0]
    for name in "ab":
        (folder / "images" / name).mkdir()
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(folder / "images" / name / "photo.png")
    with pytest.raises(DatasetError, match="got several"):
        open_annotations(path)[0]


@pytest.mark.parametrize("broken", ["a.json", "z.json"])
def test_one_broken_file_of_a_folder_is_named_and_the_others_are_read(folder, broken):
    labelme_polygon(folder)
    write(folder, broken, "{")
    dataset = open_annotations(folder)
    assert len(dataset) == 2 and dataset.vocabulary.names == ("kettle",)
    read = [dataset[i] for i in range(2) if i != (0 if broken == "a.json" else 1)]
    assert np.array_equal(read[0].segments != 0, SQUARE)
    with pytest.raises(DatasetError, match=rf"{broken}: expected a JSON file"):
        dataset[0 if broken == "a.json" else 1]


def test_one_broken_file_of_labels_too(folder):
    path = yolo(folder)
    (folder / "labels" / "broken.txt").write_bytes(b"\xff\xfe\xff")
    dataset = open_annotations(path)
    assert np.array_equal(dataset[1].segments != 0, SQUARE)
    with pytest.raises(DatasetError, match=r"broken\.txt: expected a text file"):
        dataset[0]


def test_classes_that_are_stuff(folder):
    path = labelme_polygon(folder)
    dataset = examples(None, None, None, "", annotations=path, stuff=[" kettle "])
    assert not dataset[0].info[0].thing and not dataset.vocabulary.things
    with pytest.raises(DatasetError, match="stuff: expected classes of this file, got 'pot'"):
        open_annotations(path, stuff=["kettle", "pot"])


def test_the_formats_are_listed():
    assert set(annotation_formats()) >= {
        "coco",
        "coco_panoptic",
        "colours",
        "cvat",
        "fiftyone",
        "label_studio",
        "labelme",
        "voc",
        "yolo",
    }
    assert all(": a" in title or "," in title or ":" in title for title in annotation_formats().values())
