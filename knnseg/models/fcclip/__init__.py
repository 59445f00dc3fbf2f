"""FC-CLIP (Yu et al., NeurIPS 2023, arXiv 2308.02487) in plain PyTorch, with the published checkpoint's weights."""

from knnseg.models.fcclip.config import SIZES, FcClipConfig
from knnseg.models.fcclip.model import FCCLIP, PRECISIONS, Prediction

__all__ = ["FCCLIP", "PRECISIONS", "SIZES", "FcClipConfig", "Prediction"]
