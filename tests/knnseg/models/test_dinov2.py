"""DINOv2's grid: which tokens, which positions, and where they lie over the image."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from knnseg.data.features import Features
from knnseg.data.image import Image as Picture
from knnseg.data.masks import Masks
from knnseg.method.pooling import pool
from knnseg.models.dinov2 import DinoFeatures

PLAIN, REGISTERS = "vit_small_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"
WIDTH, SIDE = 32, 37


def small(name):
    """The architecture with two narrow layers, and tokens and positions that can be told apart."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True, embed_dim=WIDTH, depth=2, num_heads=2)
    for key, value in model.named_parameters():
        torch.nn.init.normal_(value, std=0.5 if "pos_embed" in key or "token" in key else 0.1)
    return model


@pytest.fixture(scope="module", params=[PLAIN, REGISTERS])
def model(request):
    return small(request.param)


def photograph(size):
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


def seen(model, image, short_side):
    """What goes into the first layer, and what comes out of the embedding of patches, float32 (tokens, D) and (h, w, D)."""
    found = {}
    hooks = [
        model.blocks.register_forward_pre_hook(lambda _, given: found.update(tokens=given[0][0])),
        model.patch_embed.register_forward_hook(lambda *parts: found.update(patches=parts[2][0])),
    ]
    features = DinoFeatures("test", model, short_side=short_side, device="cpu").extract([Picture(image)])[0]
    for hook in hooks:
        hook.remove()
    return features, found["tokens"].numpy(), found["patches"].numpy()


def cubic(distance, a=-0.75):
    """Keys' kernel, IEEE Transactions on Acoustics, Speech, and Signal Processing, 1981."""
    near, far = (
        (a + 2) * distance**3 - (a + 3) * distance**2 + 1,
        a * (distance**3 - 5 * distance**2 + 8 * distance - 4),
    )
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def stretched(table, cells):
    """Rows of (side, D) at places (i + ½) · side / (cells + 0.1) - ½, by the cubic kernel; the border is repeated."""
    rows = []
    for i in range(cells):
        centre = (i + 0.5) * len(table) / (cells + 0.1) - 0.5
        taps = np.floor(centre) + np.arange(-1, 3)
        rows.append(cubic(np.abs(taps - centre)) @ table[np.clip(taps, 0, len(table) - 1).astype(int)])
    return np.array(rows)


def test_positions_without_registers_are_the_published_ones():
    model = small(PLAIN)
    _, tokens, patches = seen(model, photograph((70, 98)), 70)
    table = model.pos_embed.detach().numpy()[0, 1:].reshape(SIDE, SIDE, WIDTH)
    down = stretched(table.reshape(SIDE, -1), 5).reshape(5, SIDE, WIDTH)
    both = stretched(down.transpose(1, 0, 2).reshape(SIDE, -1), 7).reshape(7, 5, WIDTH).transpose(1, 0, 2)
    np.testing.assert_allclose(tokens[1:].reshape(5, 7, WIDTH) - patches, both, atol=1e-4)
    np.testing.assert_allclose(tokens[0], (model.cls_token[0, 0] + model.pos_embed[0, 0]).detach(), atol=1e-6)


def test_positions_with_registers_are_resampled_with_smoothing():
    """As Pillow does it."""
    model = small(REGISTERS)
    _, tokens, patches = seen(model, photograph((70, 98)), 70)
    table = model.pos_embed.detach().numpy()[0].reshape(SIDE, SIDE, WIDTH)
    planes = [Image.fromarray(table[..., i]).resize((7, 5), Image.Resampling.BICUBIC) for i in range(WIDTH)]
    np.testing.assert_allclose(tokens[5:].reshape(5, 7, WIDTH) - patches, np.stack(planes, 2), atol=1e-4)


def test_at_the_size_of_training_the_table_is_taken_as_it_is(model):
    _, tokens, patches = seen(model, photograph((518, 518)), 518)
    prefix = model.num_prefix_tokens
    table = model.pos_embed.detach().numpy()[0, -SIDE * SIDE :]
    np.testing.assert_allclose(tokens[prefix:] - patches.reshape(-1, WIDTH), table, atol=1e-5)


def test_class_and_register_tokens_are_dropped(model):
    """The grid is of patches: one more prefix token would shift every cell by one."""
    assert model.num_prefix_tokens == (5 if model.reg_token is not None else 1)
    found = {}
    hook = model.norm.register_forward_hook(lambda *parts: found.update(tokens=parts[2][0]))
    features = DinoFeatures("test", model, short_side=70, device="cpu").extract([Picture(photograph((70, 98)))])[0]
    hook.remove()
    assert len(found["tokens"]) == model.num_prefix_tokens + 35
    for row, column in ((0, 0), (2, 3), (4, 6)):
        expected = found["tokens"][model.num_prefix_tokens + 7 * row + column]
        np.testing.assert_array_equal(features.data[:, row, column], expected)


def test_the_variant_is_part_of_the_space():
    """Under one name, at equal widths and sizes, and even with equal weights where both have them."""
    plain, registers = small(PLAIN), small(REGISTERS)
    shared = {k: v for k, v in plain.state_dict().items() if k not in ("pos_embed", "cls_token")}
    registers.load_state_dict(shared, strict=False)
    one, other = (DinoFeatures("same", network, short_side=70, device="cpu") for network in (plain, registers))
    assert one.dim == other.dim == WIDTH and one.space.fingerprint != other.space.fingerprint
    assert DinoFeatures("same", plain, short_side=84, device="cpu").space.fingerprint != one.space.fingerprint


# -- where a cell lies -------------------------------------------------------------------------------------------------

ODD = (41, 69)
"""Neither side is a multiple of 14, nor of the other."""


def squares(size, side=9, step=5):
    """bool (N, H, W): a square at every place of a lattice, to the very borders."""
    rows, columns = (sorted({*range(0, n - side, step), n - side}) for n in size)
    found = np.zeros((len(rows) * len(columns), *size), bool)
    for i, (y, x) in enumerate((y, x) for y in rows for x in columns):
        found[i, y : y + side, x : x + side] = True
    return found


def centres(masks):
    return np.array([np.argwhere(mask).mean(0) for mask in masks])


def offset(response, extent, masks, index):
    """Pixels from a square to the one under which the response is strongest."""
    data = np.stack([response, np.ones_like(response)])  # a second channel, as pooling makes unit rows
    pooled = pool(Features(data.astype(np.float32), ODD, extent), Masks.from_dense(masks)).vectors
    best = int(np.argmax(pooled[:, 0] / pooled[:, 1]))
    return float(np.linalg.norm(centres(masks)[best] - centres(masks)[index]))


def test_image_and_mask_stay_aligned_at_odd_sizes(model):
    """What a bright square changes is found under the mask of that square, wherever it is."""
    extractor, masks = DinoFeatures("test", model, short_side=98, device="cpu"), squares(ODD)
    grey = np.full((*ODD, 3), 110, np.uint8)

    def change(index, prepare, without):
        bright = grey.copy()
        bright[masks[index]] = 250
        with_square = extractor.extract([Picture(prepare(bright))])[0]
        assert with_square.data.shape[1] == 7  # a cell is about 6 pixels of the image
        return np.linalg.norm(with_square.data - without.data, axis=0), with_square.extent

    some = range(0, len(masks), 3)
    without = extractor.extract([Picture(grey)])[0]
    ours = [offset(*change(i, lambda image: image, without), masks, i) for i in some]
    assert np.max(ours) <= 5.1 and np.mean(ours) < 1, "a step of the lattice at most, and as good as never"

    # Cropped to multiples of a patch, and the grid then laid over the whole image: the naive way.
    def cropped(image):
        return np.ascontiguousarray(image[:28, :56])

    naive, without = [], extractor.extract([Picture(cropped(grey))])[0]
    for i in some:
        response, _ = change(i, cropped, without)
        naive.append(offset(response, (0.0, 0.0), masks, i))
    assert np.mean(naive) > 3 * max(np.mean(ours), 0.5)


def test_a_mask_smaller_than_a_patch_has_the_features_around_it(model):
    image = photograph((70, 98))
    features = DinoFeatures("test", model, short_side=70, device="cpu").extract([Picture(image)])[0]
    cells = features.data / np.linalg.norm(features.data, axis=0)
    tiny = np.zeros((4, 70, 98), bool)
    tiny[0, 34:37, 48:51], tiny[1, 6, 6], tiny[2, 62:64, 90:92], tiny[3, 35, 55] = True, True, True, True
    found = pool(features, Masks.from_dense(tiny))
    assert found.coverage == pytest.approx([9 / 196, 1 / 196, 4 / 196, 1 / 196], rel=1e-5)
    likeness = np.einsum("nd,dhw->nhw", found.vectors, cells)
    for n, cell in enumerate([(2, 3), (0, 0), (4, 6)]):  # at the centres of cells: that cell's own
        assert np.unravel_index(likeness[n].argmax(), (5, 7)) == cell and likeness[n][cell] > 0.99
    down, across = np.array([0, 0, 1 - 0.5 / 14, 0.5 / 14, 0]), np.array([0, 0, 0, 7.5, 6.5, 0, 0]) / 14
    between = np.einsum(
        "dhw,h,w->d", features.data, down, across
    )  # pixel (35, 55) lies between cells (2, 3) and (2, 4)
    np.testing.assert_allclose(found.vectors[3], between / np.linalg.norm(between), atol=1e-5)
