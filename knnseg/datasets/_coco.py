"""COCO panoptic 2017 (Lin et al., ECCV 2014; Kirillov et al., CVPR 2019)."""

from __future__ import annotations

from knnseg.datasets._classes import benchmark_classes
from knnseg.datasets._tree import Benchmark, Tree
from knnseg.datasets.folders import CocoPanoptic, LabelledImages, WithVocabulary

__all__ = ["COCO_PANOPTIC", "open_coco"]

COCO_PANOPTIC = Benchmark(
    "coco-panoptic",
    "COCO panoptic 2017",
    ("train2017", "val2017"),
    "val2017",
    """
coco/
  {train2017,val2017}/*.jpg
  annotations/panoptic_{train2017,val2017}.json
  annotations/panoptic_{train2017,val2017}/*.png  as in the archive, or panoptic_{train2017,val2017}/*.png
""",
    "https://cocodataset.org",
    133,
    80,
)


def open_coco(tree: Tree, split: str) -> LabelledImages:
    """COCO panoptic; the annotations must have the published categories."""
    file, images = tree.need(f"annotations/panoptic_{split}.json"), tree.need(split)
    pngs = tree.find(f"annotations/panoptic_{split}") or tree.need(f"panoptic_{split}")
    dataset, table = CocoPanoptic(images, pngs, file), benchmark_classes("coco-panoptic")
    names = table.vocabulary.names
    published = {n: (name, name in table.vocabulary.things) for n, name in zip(table.numbers, names, strict=True)}
    wrong = [f"{n} {name!r}" for n, (name, thing) in dataset.classes.items() if published.get(n) != (name, thing)]
    if wrong:
        raise tree.wrong(f"{file.name} has other categories than the published ones: {', '.join(wrong[:3])}")
    pictures, maps = dataset.files
    tree.picked(pictures, tree.files(images, ""), f"images of {split}")
    tree.picked(maps, tree.files(pngs, ""), f"maps of {pngs.name}")
    return WithVocabulary(dataset, table.vocabulary)
