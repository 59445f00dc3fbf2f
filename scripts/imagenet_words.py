"""Makes knnseg/models/imagenet_words.npy: the classes of ImageNet as vectors of all-MiniLM-L6-v2, float16 (1000, 384).

    python scripts/imagenet_words.py

Each text is the names of a class and what WordNet says that it is, as timm has them. To encode them takes some ten
seconds, too long for a command that segments one picture; so the vectors come with the package, 768 KB.
"""

from pathlib import Path

import numpy as np

from knnseg.models.conse import NAMES, described
from knnseg.models.minilm import MiniLM

if __name__ == "__main__":
    path = Path(__file__).parents[1] / "knnseg" / "models" / NAMES
    np.save(path, MiniLM.load("cpu").encode(described()).astype(np.float16), allow_pickle=False)
    print(path, path.stat().st_size)
