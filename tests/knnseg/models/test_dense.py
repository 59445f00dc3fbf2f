"""Each dense variant against a computation written out by head in float64, and windows against the plain pass."""

import numpy as np
import open_clip
import pytest
import torch

from knnseg import Image
from knnseg.errors import ConfigError
from knnseg.models.dense import VARIANTS, gaussian, make_dense, slide
from knnseg.models.open_clip import OpenClipFeatures, OpenClipModel, load_model

TEXT = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
VISION = {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8}
CONVNEXT = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
KINDS = {
    "plain": ({}, {}),
    "quick_gelu": ({}, {"quick_gelu": True}),
    "no_ln_pre": ({"no_ln_pre": True}, {}),
    "layer_scale": ({"ls_init_value": 0.3}, {}),
    "sequence_first": ({}, {}),
}


def built(kind="plain"):
    vision, whole = KINDS[kind]
    torch.manual_seed(1)
    clip = open_clip.CLIP(16, {**VISION, **vision}, TEXT, **whole).eval()
    for (
        name,
        parameter,
    ) in clip.visual.named_parameters():  # attention that is neither even nor sharp, biases that are not 0
        torch.nn.init.normal_(parameter, float("ln_" in name and name.endswith("weight")), 0.2)
    if kind == "sequence_first":
        clip.visual.transformer.batch_first = False
        for block in clip.visual.transformer.resblocks:
            block.attn.batch_first = False
    return clip


@pytest.fixture(scope="module", params=KINDS)
def clip(request):
    return built(request.param)


@pytest.fixture(scope="module")
def convnext():
    torch.manual_seed(0)
    return open_clip.CLIP(16, CONVNEXT, TEXT).eval().visual


def pixels(height, width, seed=0):
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def norm(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
    return x * layer.weight.numpy() + layer.bias.numpy()


def linear(x, layer):
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def attended(variant, q, k, v, places, sigma):
    """One head: (L, d) each, the class token first; the formulas of the papers."""
    scale = q.shape[1] ** -0.5
    distance = ((places[:, None] - places) ** 2).sum(-1)
    near = np.exp(-distance / (2 * sigma**2))
    match variant:
        case "value":
            return v[1:]
        case "naclip":
            return softmax(np.einsum("id,jd->ij", k[1:], k[1:]) * scale + near) @ v[1:]
        case "naclip-qq":
            return softmax(np.einsum("id,jd->ij", q[1:], q[1:]) * scale + near) @ v[1:]
        case "clearclip":
            return (softmax(np.einsum("id,jd->ij", q, q) * scale) @ v)[1:]
        case "sclip":
            both = softmax(np.einsum("id,jd->ij", q, q) * scale) + softmax(np.einsum("id,jd->ij", k, k) * scale)
            return (both @ v)[1:]


def expected(clip, images, variant, sigma):
    """(D, h, w) in float64, from what the untouched network feeds into its last block."""
    visual, seen = clip.visual, {}
    last = visual.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    visual(images)
    hook.remove()
    x = (seen["x"] if visual.transformer.batch_first else seen["x"].transpose(0, 1))[0].double().numpy()
    rows, columns = images.shape[2] // 8, images.shape[3] // 8
    places = np.array([(i, j) for i in range(rows) for j in range(columns)], float)
    block = last.double()
    qkv = norm(x, block.ln_1) @ block.attn.in_proj_weight.numpy().T + block.attn.in_proj_bias.numpy()
    q, k, v = np.split(qkv, 3, axis=1)
    heads = [slice(i, i + 8) for i in range(0, 32, 8)]
    mixed = np.concatenate([attended(variant, q[:, h], k[:, h], v[:, h], places, sigma) for h in heads], 1)
    gain = [layer.gamma.numpy() if hasattr(layer, "gamma") else 1.0 for layer in (block.ls_1, block.ls_2)]
    y = linear(mixed, block.attn.out_proj) * gain[0]
    if variant == "sclip":
        y = x[1:] + y
        hidden = linear(norm(y, block.ln_2), block.mlp.c_fc)
        y = y + linear(block.mlp.gelu(torch.from_numpy(hidden)).numpy(), block.mlp.c_proj) * gain[1]
    tokens = norm(y, visual.ln_post.double()) @ visual.proj.double().numpy()
    visual.float()
    return tokens.T.reshape(16, rows, columns)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_its_formula(clip, variant):
    images = pixels(32, 32)
    with torch.no_grad():
        ours = make_dense(clip.visual, variant, 1.5)(images)[0].numpy()
        theirs = expected(clip, images, variant, 1.5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_the_variants_differ():
    clip, images = built(), pixels(32, 32)
    with torch.no_grad():
        grids = [make_dense(clip.visual, variant, 1.5)(images) for variant in VARIANTS]
    scale = max(grid.abs().max() for grid in grids)
    assert all((a - b).abs().max() > 0.01 * scale for i, a in enumerate(grids) for b in grids[:i])


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_grids_take_interpolated_positions(variant):
    """The same network with a table for the other grid, so that nothing is left to interpolate."""
    clip, images = built(), pixels(24, 48)
    table = clip.visual.positional_embedding
    cells = table[1:].T.reshape(1, 32, 4, 4)
    grid = torch.nn.functional.interpolate(cells, (3, 6), mode="bicubic", align_corners=False)
    torch.manual_seed(1)
    other = open_clip.CLIP(16, {**VISION, "image_size": (24, 48)}, TEXT).eval()
    state = clip.state_dict() | {"visual.positional_embedding": torch.cat([table[:1], grid[0].flatten(1).T]).detach()}
    other.load_state_dict(state)
    with torch.no_grad():
        ours = make_dense(clip.visual, variant, 1.5)(images)
        theirs = make_dense(other.visual, variant, 1.5)(images)
        written_out = expected(other, images, variant, 1.5)
    assert ours.shape == (1, 16, 3, 6) and torch.equal(ours, theirs)
    np.testing.assert_allclose(ours[0], written_out, rtol=1e-4, atol=1e-4 * np.abs(written_out).max())


def test_order_of_batch_and_sequence_changes_nothing():
    images = torch.cat([pixels(32, 40, seed) for seed in range(3)])
    with torch.no_grad():
        first, second = (make_dense(built(kind).visual, "sclip")(images) for kind in ("plain", "sequence_first"))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_the_neighbourhood_is_a_gaussian_of_the_distance():
    near = gaussian(3, 4, 2.0, torch.zeros(1))
    assert near.shape == (12, 12) and near.dtype == torch.float32
    assert near[0, 0] == 1 and near[0, 11].item() == pytest.approx(np.exp(-(4 + 9) / 8))
    assert near[5, 6].item() == near[5, 9].item() == pytest.approx(np.exp(-1 / 8))


def test_towers_that_speak_for_no_place_are_refused():
    coca = open_clip.CLIP(16, {**VISION, "attentional_pool": True}, TEXT)
    with pytest.raises(ConfigError, match="VisionTransformer with attention pooling"):
        make_dense(coca.visual)
    siglip = {
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 224,
    }
    with torch.device("meta"), pytest.raises(ConfigError, match="TimmModel with attention pooling"):
        make_dense(open_clip.CLIP(768, siglip, TEXT).visual)
    resnet = open_clip.CLIP(16, {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}, TEXT)
    with pytest.raises(ConfigError, match="got ModifiedResNet"):
        make_dense(resnet.visual)
    custom = open_clip.CLIP(16, {**VISION, "qk_norm": True, "block_type": "custom"}, TEXT)
    with pytest.raises(ConfigError, match="CustomResidualAttentionBlock"):
        make_dense(custom.visual)


# -- windows ----------------------------------------------------------------------------------------------------------


class Recorder:
    """A tower of 8-pixel cells that gives back what it sees, and remembers the shapes."""

    dim, cell, settings = 3, 8, {}

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        self.shapes.append(tuple(images.shape))
        return torch.nn.functional.avg_pool2d(images, 8)


@pytest.mark.parametrize("window", [48, 64])
def test_a_window_that_holds_the_image_is_the_plain_pass(window):
    tower, images = make_dense(built().visual, "naclip"), pixels(32, 48)
    with torch.no_grad():
        assert torch.equal(slide(tower, images, window, 8), tower(images))


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((64, 64), 32, 16), ((40, 104), 32, 24), ((72, 24), 32, 32), ((56, 64), 40, 8)]
)
def test_every_cell_comes_from_its_own_place(size, window, stride):
    """A tower without context gives the same however the image is cut: nothing is moved, left out or counted twice."""
    tower, images = Recorder(), pixels(*size)
    torch.testing.assert_close(slide(tower, images, window, stride), tower(images))
    assert all(batch <= 4 and max(h, w) <= window for batch, _, h, w in tower.shapes[:-1])


def test_the_last_window_touches_the_border():
    tower, images = Recorder(), pixels(8, 56)
    slide(tower, images, 32, 16)
    assert [shape[0] for shape in tower.shapes] == [3]  # from 0, 16 and 24: not beyond the border
    slide(Recorder(), pixels(200, 200), 32, 8)


def test_many_windows_go_through_a_few_at_a_time():
    tower = Recorder()
    slide(tower, pixels(160, 160), 32, 16)
    assert sum(shape[0] for shape in tower.shapes) == 81 and max(shape[0] for shape in tower.shapes) == 4


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_cell_of_one_window_is_what_that_window_says(kind, convnext):
    """Two windows side by side without overlap are two images."""
    tower = make_dense(built().visual, "sclip") if kind == "vit" else make_dense(convnext)
    side = 4 * tower.cell
    images = pixels(side, 2 * side)
    with torch.no_grad():
        both = slide(tower, images, side, side)
        left, right = tower(images[..., :side]), tower(images[..., side:])
    torch.testing.assert_close(both, torch.cat([left, right], 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_a_constant_image_gives_what_one_window_gives_where_all_agree(kind, convnext):
    tower = make_dense(built().visual, "naclip") if kind == "vit" else make_dense(convnext)
    side = 2 * tower.cell
    with torch.no_grad():
        whole = slide(tower, torch.full((1, 3, side, 3 * side), 0.3), side, side)
        one = tower(torch.full((1, 3, side, side), 0.3))
    torch.testing.assert_close(whole, one.repeat(1, 1, 1, 3), rtol=1e-4, atol=1e-4)


def model_of(clip):
    return OpenClipModel("small", clip, None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), torch.device("cpu"))


def test_a_square_that_moves_moves_the_features_with_it():
    extractor = OpenClipFeatures(model_of(built()), short_side=96, window=32, stride=16)
    empty = np.full((96, 160, 3), 90, np.uint8)
    background = extractor.extract([Image(empty)])[0].data
    for row, column in ((1, 2), (6, 14), (10, 9)):
        image = empty.copy()
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 250
        features = extractor.extract([Image(image)])[0]
        assert features.grid == (12, 20)
        changed = np.abs(features.data - background).sum(0)
        assert np.unravel_index(changed.argmax(), changed.shape) == (row, column)
        rows, columns = np.nonzero(changed > 1e-4)  # a window is 4 cells wide: nothing beyond its reach
        assert np.abs(rows - row).max() <= 3 and np.abs(columns - column).max() <= 3


def test_the_fingerprint_knows_windows_only_where_there_are_any():
    model = model_of(built())
    plain = OpenClipFeatures(model).space
    prints = [
        OpenClipFeatures(model, **o).space.fingerprint
        for o in ({"window": 32}, {"window": 32, "stride": 8}, {"window": 64})
    ]
    assert len({plain.fingerprint, *prints}) == 4 and "window" not in plain.note
    half = OpenClipFeatures(model, window=32, stride=16).space.fingerprint
    assert prints[0] == half  # the default stride


@pytest.mark.parametrize(
    ("attention", "mark"),
    [
        ("value", "ed5a51e87356560dca7bf5e84561e685263c89b431fd8f6561ac7979fdad8e35"),
        ("naclip", "ab9afbf234dd50c54cb6dedf4edbf291fc89fc4991ab158849b95a3bf82f1dd2"),
    ],
)
def test_the_fingerprints_that_databases_were_made_with(attention, mark):
    """Another one would make them unreadable."""
    model = load_model("bundled:tiny", "", "cpu")
    assert OpenClipFeatures(model, short_side=192, attention=attention).space.fingerprint == f"sha256:{mark}"


def test_fingerprints_of_the_variants():
    model = model_of(built())
    spaces = {name: OpenClipFeatures(model, attention=name).space for name in VARIANTS}
    assert len({space.fingerprint for space in spaces.values()}) == len(VARIANTS)
    assert {name for name, space in spaces.items() if "sigma" in space.note} == {"naclip", "naclip-qq"}


@pytest.mark.parametrize(
    "options",
    [{"window": 30}, {"window": 32, "stride": 4}, {"window": 16, "stride": 32}, {"stride": 16}, {"window": -8}],
)
def test_windows_that_cannot_be(options):
    with pytest.raises(ConfigError, match="multiples of the 8 pixels"):
        OpenClipFeatures(model_of(built()), **options)
