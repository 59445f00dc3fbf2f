"""Images far longer than wide go through, or are refused by name."""

import numpy as np
import pytest

from knnseg import Image
from knnseg.errors import ImageError
from knnseg.models.proposers.points import load_sam, load_sam2
from knnseg.models.proposers.queries import load_eomt, load_mask2former

FOLDERS = {load_mask2former: "m2f_folder", load_eomt: "eomt_folder", load_sam: "sam_folder", load_sam2: "sam2_folder"}


@pytest.mark.parametrize("load", FOLDERS)
def test_narrow_images_are_segmented_or_refused(request, load):
    proposer = load(str(request.getfixturevalue(FOLDERS[load])), device="cpu")
    for size in ((1, 1), (1, 300), (300, 1), (2, 9000)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        if load is load_sam2 or size == (1, 1):  # SAM 2 stretches everything to a square
            assert proposer.propose([Image(image)])[0].size == size
        else:
            with pytest.raises(ImageError, match=r"image of \d+×\d+.*more usual ratio.*Cut it"):
                proposer.propose([Image(image)])[0]
