"""The classes that the published model was trained on, which decide between α and β.

The names of COCO's panoptic categories (Lin et al., ECCV 2014, arXiv 1405.0312; Kirillov et al., CVPR 2019, arXiv
1801.00868), in plain words: without ``-merged`` and ``-other``, and the noun last. Training itself used longer lists of
synonyms, those of OpenSeg; a file of them can be given instead.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from knnseg.errors import ConfigError
from knnseg.models.fcclip.text import synonyms

__all__ = ["COCO", "read_classes"]

_THINGS = """
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella; handbag;
tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard; surfboard;
tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple; sandwich; orange; broccoli; carrot;
hot dog; pizza; donut; cake; chair; couch; potted plant; bed; dining table; toilet; tv; laptop; mouse; remote; keyboard;
cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase; scissors; teddy bear; hair drier;
toothbrush
"""
_STUFF = """
banner; blanket; bridge; cardboard; counter; curtain; door; wood floor; flower; fruit; gravel; house; light; mirror;
net; pillow; platform; playing field; railroad; river; road; roof; sand; sea; shelf; snow; stairs; tent; towel;
brick wall; stone wall; tile wall; wood wall; water; window blind; window; tree; fence; ceiling; sky; cabinet; table;
floor; pavement; mountain; grass; dirt; paper; food; building; rock; wall; rug
"""
COCO = tuple(name for text in (_THINGS, _STUFF) for name in " ".join(text.split()).split("; "))
"""133 names, the things first."""


def read_classes(path: str | PathLike[str]) -> tuple[str, ...]:
    """Class names from a text file: one class a line, synonyms separated by commas.

    A number and a colon before the names, as in OpenSeg's files, are left out, and so are numbers without a class,
    which those call ``invalid_class_id``.

    Raises:
        ConfigError: no such file, or one without a name.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("trained", expected="a text file with class names", got=str(error)) from error
    parts = [line.partition(":") for line in lines]
    found = [after if before.strip().isdigit() and colon else before + colon + after for before, colon, after in parts]
    names = tuple(name.strip() for name in found if name.strip() and name.strip() != "invalid_class_id")
    if not names:
        raise ConfigError("trained", expected="one class in a line", got=f"none in {path}")
    for name in names:
        synonyms(name)
    return names
