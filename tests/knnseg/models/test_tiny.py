"""The bundled ``tiny`` model: small, loadable by open_clip as it is, and good at what it was trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnseg
from knnseg.data.annotations import LabelledImage
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
F = torch.nn.functional

FOLDER = Path(knnseg.__file__).parent / "models" / "tiny"
SEEN = [concept.name for concept in CONCEPTS if not concept.held_back]
HELD_BACK = [concept.name for concept in CONCEPTS if concept.held_back]
PATCH = 8


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def model(config: dict[str, Any]) -> Any:
    from safetensors.torch import load_file

    built = open_clip.model.CLIP(**config)
    built.load_state_dict(load_file(FOLDER / "model.safetensors"), strict=True)
    return built.float().eval()


@pytest.fixture(scope="module")
def texts(model: Any, config: dict[str, Any]) -> Any:
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    with torch.no_grad():
        return model.encode_text(tokenizer([f"a photo of a {name}." for name in SEEN]), normalize=True)


@torch.no_grad()
def dense(model: Any, image: np.ndarray) -> Any:
    """(D, h, w): the value path of the last block, written down a second time on purpose."""
    visual, last = model.visual, model.visual.transformer.resblocks[-1]
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    x = visual.conv1(((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)[None])
    h, w = x.shape[2:]
    cells = visual.positional_embedding[1:].reshape(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
    positions = F.interpolate(cells, size=(h, w), mode="bicubic").flatten(2)[0].T
    x = torch.cat(
        [visual.class_embedding[None, None] + visual.positional_embedding[:1], x.flatten(2).mT + positions], 1
    )
    x = visual.ln_pre(x)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    width = x.shape[-1]
    value = F.linear(last.ln_1(x[:, 1:]), last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:])
    return (visual.ln_post(last.attn.out_proj(value)) @ visual.proj)[0].T.reshape(-1, h, w)


def embed(model: Any, scene: LabelledImage) -> tuple[Any, list[str]]:
    """Pooled unit-norm (N, D) and labels of the segments of at least one cell."""
    numbers = torch.tensor([segment.id for segment in scene.info])
    members = (torch.from_numpy(scene.segments)[None] == numbers[:, None, None]).float()
    weights = F.avg_pool2d(members, PATCH)
    kept = [i for i in range(len(numbers)) if float(weights[i].sum()) >= 1]
    pooled = torch.einsum("dhw,nhw->nd", dense(model, scene.image), weights[kept])
    return F.normalize(pooled, dim=-1), [scene.info[i].label for i in kept]


def embed_all(model: Any, scenes: RenderedScenes) -> tuple[Any, np.ndarray]:
    parts = [embed(model, scene) for scene in scenes]
    return torch.cat([part[0] for part in parts]), np.array([label for part in parts for label in part[1]])


def test_the_weights_fit_in_the_package() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 16_000_000


def test_it_is_an_ordinary_open_clip_model(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "knnseg-tiny.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(tmp_path / "knnseg-tiny.json")
    built, _, _ = open_clip.create_model_and_transforms("knnseg-tiny", pretrained=str(FOLDER / "model.safetensors"))
    assert built.visual.output_dim == config["embed_dim"]
    assert open_clip.get_tokenizer("knnseg-tiny")(["a ball"]).shape == (1, config["text_cfg"]["context_length"])


@pytest.mark.parametrize(("side", "floor"), [(128, 0.8), (192, 0.83)])
def test_it_recognises_what_it_has_seen(model: Any, texts: Any, side: int, floor: float) -> None:
    vectors, truth = embed_all(model, RenderedScenes(24, seed=90210, size=(side, side), concepts="seen"))
    predicted = np.array(SEEN)[(vectors @ texts.T).argmax(1).numpy()]
    assert (predicted == truth).mean() >= floor


def test_neighbours_recognise_what_it_has_not_seen(model: Any) -> None:
    references = RenderedScenes(4 * len(HELD_BACK), seed=4, size=(192, 192), concepts="held_back", including=HELD_BACK)
    queries = RenderedScenes(len(HELD_BACK), seed=90211, size=(192, 192), concepts="held_back", including=HELD_BACK)
    keys, labels = embed_all(model, references)
    vectors, truth = embed_all(model, queries)
    assert (labels[(vectors @ keys.T).argmax(1).numpy()] == truth).mean() >= 0.7


def test_the_whole_image_goes_with_its_caption(model: Any, config: dict[str, Any]) -> None:
    scenes = RenderedScenes(16, seed=90212, size=(128, 128), concepts="seen")
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    images = torch.stack([(torch.from_numpy(scene.image).permute(2, 0, 1) / 255 - mean) / std for scene in scenes])
    with torch.no_grad():
        similarity = (
            model.encode_image(images, normalize=True)
            @ model.encode_text(tokenizer([scenes.caption(i) for i in range(16)]), normalize=True).T
        )
    assert (similarity.argmax(1) == torch.arange(16)).float().mean() >= 0.2
