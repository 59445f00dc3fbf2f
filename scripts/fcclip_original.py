"""Import the original FC-CLIP and detectron2 from their sources, without compiling anything.

Nothing of either is in this repository. Needed beside them: fvcore, iopath, yacs, omegaconf, hydra-core, cloudpickle,
and for the text tower open_clip_torch==2.20.0, with which the original was written.

Two of their compiled extensions are replaced by empty modules: the original then takes its own path for the CPU.
"""

import sys
import types
import warnings
from contextlib import chdir
from pathlib import Path


def import_original(fcclip: str, detectron2: str):
    """The package ``fcclip``; both arguments are folders with a clone."""
    sys.path[:0] = [str(Path(fcclip).resolve()), str(Path(detectron2).resolve())]
    cv2 = types.ModuleType("cv2")  # its augmentations name constants of OpenCV at import
    cv2.COLOR_RGB2BGR = cv2.COLOR_BGR2HSV = cv2.COLOR_HSV2BGR = 0
    cv2.__version__ = "0.0"
    sys.modules.setdefault("cv2", cv2)
    sys.modules["MultiScaleDeformableAttention"] = types.ModuleType("MultiScaleDeformableAttention")
    with warnings.catch_warnings(), chdir(fcclip):  # it reads its class names relative to the working directory
        warnings.simplefilter("ignore")
        import detectron2 as package

        sys.modules["detectron2._C"] = package._C = types.ModuleType("detectron2._C")
        import fcclip as original
    return original


def build_original(fcclip: str, clip_name: str, clip_config: dict, channels: list[int], settings: list, classes: dict):
    """The original model on the CPU, after :func:`import_original`.

    Args:
        fcclip: the folder of its clone, for its configuration.
        clip_name: under which open_clip is to know the CLIP model.
        clip_config: of that model.
        channels: of stem and res2 to res5, which the original knows of three models only.
        settings: keys and values over its configuration.
        classes: ``train``, ``test``: names; ``things``: positions in ``test``.
    """
    from detectron2.config import get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.modeling import build_model
    from detectron2.projects.deeplab import add_deeplab_config
    from fcclip import add_fcclip_config, add_maskformer2_config
    from fcclip.modeling.backbone.clip import CLIP
    from open_clip import factory

    factory._MODEL_CONFIGS[clip_name] = clip_config
    CLIP.output_channels = channels
    things = {i + 100: i for i in classes["things"]}
    for name, of in (("reference_train", "train"), ("reference_test", "test")):
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)
        MetadataCatalog.get(name).set(
            stuff_classes=classes[of], thing_dataset_id_to_contiguous_id=things if of == "test" else {}
        )
    config = get_cfg()
    for add in (add_deeplab_config, add_maskformer2_config, add_fcclip_config):
        add(config)
    folder = Path(fcclip) / "configs/coco/panoptic-segmentation/fcclip"
    config.merge_from_file(str(folder / "fcclip_convnext_large_eval_ade20k.yaml"))
    head = ["MODEL.FC_CLIP.CLIP_MODEL_NAME", clip_name, "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", ""]
    config.merge_from_list(["MODEL.DEVICE", "cpu", *head, "MODEL.FC_CLIP.EMBED_DIM", clip_config["embed_dim"]])
    config.DATASETS.TRAIN, config.DATASETS.TEST = ("reference_train",), ("reference_test",)
    config.merge_from_list(settings)
    return build_model(config).eval()
