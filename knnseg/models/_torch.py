"""What every torch-backed stage shares: device, preprocessing, fingerprint, and clear errors about weights."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from knnseg.data.arrays import ImageArray
from knnseg.data.reading import fit, resize
from knnseg.errors import ConfigError, WeightsError

__all__ = [
    "existing", "fingerprint", "from_hub", "pick_device", "read_state", "renamed", "renaming", "to_batch", "to_numpy",
    "weights",
]  # fmt: skip


def pick_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where it works, else the CPU.

    Raises:
        ConfigError: a device that this torch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch says both, by build
        raise ConfigError("device", expected="one that this torch can use", got=f"{name!r}: {error}") from error
    return torch.device(name)


def fingerprint(model: torch.nn.Module, settings: Mapping[str, object]) -> str:
    """``"sha256:…"`` over every weight and everything else that changes a feature."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def to_batch(
    image: ImageArray, short_side: int, multiple: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """Resize to multiples of a patch and normalise: float32 (1, 3, H', W') on ``device``."""
    size = fit((image.shape[0], image.shape[1]), short_side, multiple)
    pixels = resize(image, size).astype(np.float32) / 255
    pixels = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None]).contiguous().to(device)


def to_numpy(x: torch.Tensor) -> NDArray[np.float32]:
    """float32, C-contiguous, from any device and precision."""
    return np.ascontiguousarray(x.float().cpu().numpy(), np.float32)


@contextmanager
def weights(what: str, where: str) -> Iterator[None]:
    """Turn whatever a hub client or a checkpoint reader raises into one clear message.

    Args:
        what: the model, for the message.
        where: how to provide the weights by hand, beginning with a verb; see :func:`knnseg.models.weights.how_to_get`.
    """
    try:
        yield
    except (ImportError, ConfigError, WeightsError):
        raise
    except Exception as error:  # hub clients raise their own and their HTTP library's exceptions
        first = textwrap.shorten((str(error).strip().splitlines() or [""])[0], 300, placeholder=" …").rstrip(". ")
        raise WeightsError(
            what,
            expected="readable weights",
            got=f"{type(error).__name__}: {first}",
            hint=f"Without network access, {where}.",
        ) from error


_PATIENCE = 5.0
"""Seconds that the hub may take to answer at all, before it is taken to be out of reach."""


@contextmanager
def from_hub() -> Iterator[None]:
    """Around a call that may ask the hub: where that is out of reach, what was kept is used, or it fails at once.

    Left to itself the hub's client tries each file six times, for half a minute, and says so each time.

    Raises:
        ConnectionError: the hub is out of reach, and what is needed was not kept.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    trouble = "HF_HUB_OFFLINE is set" if before else _silence(constants.ENDPOINT)
    if not trouble:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    logging.disable(logging.CRITICAL)  # open_clip logs the same failure once more
    try:
        yield
    except Exception as error:
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached ({trouble})") from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(logging.NOTSET)


def _silence(url: str) -> str:
    """Why nobody answers there, "" if somebody does."""
    try:
        asked = urllib.request.Request(url, method="HEAD")  # noqa: S310  # an address of the environment
        with urllib.request.urlopen(asked, timeout=_PATIENCE):  # noqa: S310  # likewise
            return ""
    except urllib.error.HTTPError:
        return ""  # an answer
    except OSError as error:
        return str(getattr(error, "reason", error))


def existing(path: str, what: str) -> Path:
    """A file that is there.

    Raises:
        WeightsError: it is not.
    """
    if not Path(path).is_file():
        raise WeightsError(what, expected="a file with weights", got=f"no such file: {path}")
    return Path(path)


def read_state(path: str, what: str, where: str) -> dict[str, torch.Tensor]:
    """Tensors by key, from safetensors or from a file that torch reads with ``weights_only=True``.

    detectron2 wraps the weights as ``{"model": …}`` beside the state of its trainer; that is undone.

    Args:
        path: the file.
        what: the model, for messages.
        where: see :func:`weights`.

    Raises:
        WeightsError: no such file, one that is not to be trusted, or one that holds something else.
    """
    file = existing(path, what)
    with weights(f"{what} checkpoint {file.name}", where):
        is_safe = file.suffix == ".safetensors"
        content = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(path, expected='tensors by key, or such a dictionary under "model"', got="something else")
    return dict(state)


def renaming(rules: Iterable[tuple[str, str]]) -> list[tuple[re.Pattern[str], str]]:
    """Rules for :func:`renamed`, from beginnings of keys, old and new; # is a number."""
    return [(re.compile(re.escape(old).replace(r"\#", r"(\d+)")), new) for old, new in rules]


def renamed(key: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    """A key of one layout in another, by the first rule that fits; None where no rule does."""
    for pattern, target in rules:
        if found := pattern.match(key):
            first, *rest = target.split("#")
            return (
                "".join([first, *(n + part for n, part in zip(found.groups(), rest, strict=True))]) + key[found.end() :]
            )
    return None
