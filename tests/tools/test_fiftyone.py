"""FiftyOne applies our model to a data set of its own. Runs in the environment of FiftyOne, see `make test-tools`."""

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.tools, pytest.mark.timeout(400)]
NAMES = ["sky", "grass", "ball"]


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory, port):
    """The package, on a database of its own: the one that its wheel has inside, since it finds none by itself here."""
    found = importlib.util.find_spec("fiftyone")
    if found is None:
        pytest.skip("FiftyOne is not installed here; `make test-tools` does it, and runs this test there")
    folder = tmp_path_factory.mktemp("fiftyone")
    program = Path(found.origin).parent / "db" / "bin" / "mongod"
    os.environ |= {
        "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{port}", "FIFTYONE_DO_NOT_TRACK": "true", "HOME": str(folder),
        "FIFTYONE_DATABASE_DIR": str(folder),
    }  # fmt: skip
    command = [program, "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            time.sleep(1)  # its client waits for it from there
            yield importlib.import_module("fiftyone")
        finally:
            process.terminate()
            process.wait(30)


def test_a_data_set_gets_masks_with_their_votes(fiftyone, segmenter, scenes, tmp_path):
    from knnseg.integrations.fiftyone import SegmentModel

    for n, size in enumerate([(48, 64), (40, 56)]):
        Image.fromarray(scenes.make_scene(7 + n, size=size).image).save(tmp_path / f"{n}.png")
    segmenter.database.add([scenes.make_scene(i) for i in range(3)], writer="me")
    dataset = fiftyone.Dataset.from_images([str(tmp_path / "0.png"), str(tmp_path / "1.png")])
    model = SegmentModel(segmenter, NAMES, votes=3)
    dataset.mask_targets["knnseg_semantic"] = model.mask_targets
    dataset.apply_model(model, label_field="knnseg", batch_size=2)
    plain = SegmentModel(segmenter, NAMES, votes=0).predict(scenes.make_scene(7).image)
    expected = [segmenter.predict(tmp_path / f"{n}.png", NAMES) for n in range(2)]
    dataset.reload()
    assert dataset.mask_targets["knnseg_semantic"] == {1: "sky", 2: "grass", 3: "ball"}
    for sample in dataset:
        result = expected[int(Path(sample.filepath).stem)]
        assert np.array_equal(sample["knnseg_semantic"].get_mask(), result.semantic + 1)
        detections = sample["knnseg_segments"].detections
        assert [d.label for d in detections] == [s.label for s in result.segments_info]
        for detection, segment in zip(detections, result.segments_info, strict=True):
            drawn = detection.to_segmentation(frame_size=result.panoptic.shape[::-1], target=1).get_mask()
            assert np.array_equal(drawn > 0, result.panoptic == segment.id)
            assert detection.confidence == pytest.approx(segment.score) and detection["thing"] == segment.thing
            assert 0 < len(detection["votes"]) <= 3 and detection["votes"][0]["label"] in NAMES
            assert detection["votes"][0]["weight"] > 0 and 0 <= detection["final"] <= 1
    assert "votes" not in plain["segments"].detections[0]
    assert dataset.match_labels(filter=fiftyone.ViewField("thing") == True).count() >= 0  # noqa: E712  # the field can be asked for
