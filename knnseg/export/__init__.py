"""Results in the forms of other tools: files of a whole run, and what other libraries' users expect in memory.

with Export("segmented", ["panoptic", "yolo"], images="photos") as export:
    for result in segmenter.stream(paths, classes):
        export.write(result)
"""

from knnseg.export.run import DEFAULT, FORMATS, Export, Written

__all__ = ["DEFAULT", "FORMATS", "Export", "Written"]
