"""The code that loads published weights, on checkpoints written here in the published formats, key for key."""

import json

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

import knnseg.models.weights
from knnseg import Image
from knnseg.errors import ConfigError, WeightsError
from knnseg.models.dinov2 import VARIANTS, DinoFeatures
from knnseg.models.open_clip import OpenClipFeatures, OpenClipText, load_model
from knnseg.models.weights import PublishedWeights

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CONVNEXT = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


def written(folder, name, config, suffix="safetensors", **extra):
    """A randomly initialised model, its config in open_clip's format, its weights in a published container."""
    torch.manual_seed(0)
    clip = open_clip.CLIP(**config).eval()
    (folder / f"{name}.json").write_text(json.dumps({**config, **extra}))
    path = folder / f"{name}.{suffix}"
    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    if suffix == "safetensors":
        save_file(state, path)
    else:
        # open_clip's own training checkpoints: nested, and with DataParallel's prefix
        torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return clip, str(folder / f"{name}.json"), str(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_open_clip_checkpoints_load_key_for_key(folder, suffix):
    clip, config, path = written(folder, f"vit-{suffix}", VIT, suffix)
    loaded = load_model(config, path, "cpu").clip
    theirs, ours = clip.state_dict(), loaded.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_published_name_loads_a_local_file(folder):
    """ViT-S-32-alt is the smallest model that open_clip publishes a config for."""
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    path = folder / "published.safetensors"
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)
    model = load_model("ViT-S-32-alt", str(path), "cpu")
    assert torch.equal(model.clip.visual.proj, clip.visual.proj)
    assert OpenClipText(model).encode(["a kettle"]).shape == (1, 256)
    assert model.tokenizer(["a kettle"]).shape == (1, 77)


def test_a_checkpoint_with_a_missing_key_is_refused_by_name(folder):
    clip, config, path = written(folder, "broken", VIT)
    state = dict(clip.state_dict())
    del state["visual.proj"]
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    with pytest.raises(WeightsError, match=r"visual\.proj|`pretrained`"):
        load_model(config, path, "cpu")


def test_missing_and_foreign_files(folder):
    _, config, _ = written(folder, "lonely", VIT)
    with pytest.raises(WeightsError, match="no such file"):
        load_model(config, str(folder / "nothing.safetensors"), "cpu")
    with pytest.raises(WeightsError, match="no such file"):
        load_model("ViT-B-16", str(folder / "nothing.safetensors"), "cpu")
    (folder / "text.safetensors").write_text("not weights")
    with pytest.raises(WeightsError, match="fetch them elsewhere"):
        load_model(config, str(folder / "text.safetensors"), "cpu")
    with pytest.raises(ConfigError, match="published name"):
        load_model("ViT-Z-99", "", "cpu")
    with pytest.raises(ConfigError, match="laion2b"):
        load_model("ViT-B-16", "", "cpu")
    with pytest.raises(ConfigError, match="model-config"):
        load_model(str(folder / "none.json"), "", "cpu")


def test_an_unusable_device_is_named(folder):
    _, config, path = written(folder, "device", VIT)
    with pytest.raises(ConfigError, match="quantum"):
        load_model(config, path, "quantum")


def test_a_pickle_that_runs_code_is_not_loaded(folder):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    _, config, _ = written(folder, "bomb", VIT)
    torch.save({"state_dict": Bomb()}, folder / "bomb.pt")
    with pytest.raises(WeightsError):
        load_model(config, str(folder / "bomb.pt"), "cpu")


@pytest.fixture(scope="module")
def vit(folder):
    clip, config, path = written(folder, "features", VIT)
    return clip, load_model(config, path, "cpu")


def test_dense_value_features_are_maskclips(vit):
    """Hooks on the untouched model give the input of the last block; the rest is written out from the paper."""
    clip, model = vit
    extractor = OpenClipFeatures(model, short_side=32)
    image = IMAGE[:32, :32]
    seen = {}
    hook = model.clip.visual.transformer.resblocks[-1].register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    pixels = (image / 255 - np.array(model.mean)) / np.array(model.std)
    with torch.no_grad():
        model.clip.encode_image(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
        hook.remove()
        block = clip.visual.transformer.resblocks[-1]
        value = block.ln_1(seen["x"]) @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
        tokens = clip.visual.ln_post(block.attn.out_proj(value)) @ clip.visual.proj
    expected = tokens[0, 1:].T.reshape(16, 4, 4).numpy()
    features = extractor.extract([Image(image)])[0]
    assert features.grid == (4, 4) and extractor.dim == 16
    np.testing.assert_allclose(features.data, expected, atol=1e-5)


def test_naclip_attends_to_neighbours_by_keys_and_distance(vit):
    """A neighbourhood that shrinks to nothing or grows to everything has a limit that can be computed."""
    _, model = vit
    value = OpenClipFeatures(model, short_side=32).extract([Image(IMAGE)])[0].data
    wide = OpenClipFeatures(model, short_side=32, attention="naclip", sigma=1e6).extract([Image(IMAGE)])[0].data
    near = OpenClipFeatures(model, short_side=32, attention="naclip", sigma=2.0).extract([Image(IMAGE)])[0].data
    assert value.shape == wide.shape == near.shape == (16, 4, 6)
    assert not np.allclose(value, near) and not np.allclose(near, wide)
    # mixing over space makes the grid smoother than each token's own value
    assert near.std((1, 2)).sum() < value.std((1, 2)).sum()


def test_other_sizes_interpolate_positions(vit):
    _, model = vit
    assert OpenClipFeatures(model, short_side=48).extract([Image(IMAGE)])[0].grid == (6, 8)


def test_convnext_is_dense_at_stride_32_and_pools_to_the_same_place(folder):
    clip, config, path = written(folder, "convnext", CONVNEXT)
    model = load_model(config, path, "cpu")
    features = OpenClipFeatures(model, short_side=64).extract([Image(IMAGE)])[0]
    assert features.grid == (2, 3) and features.dim == 16
    # over a single cell the head sees exactly what it sees after global pooling
    pixel = np.ascontiguousarray(IMAGE[:32, :32])
    one = OpenClipFeatures(model, short_side=32).extract([Image(pixel)])[0].data[:, 0, 0]
    normal = (pixel / 255 - np.array(model.mean)) / np.array(model.std)
    with torch.no_grad():
        whole = clip.encode_image(torch.from_numpy(normal.transpose(2, 0, 1)[None]).float())[0]
    np.testing.assert_allclose(one, whole.numpy(), atol=1e-4)


def test_fingerprints_change_with_everything_that_changes_a_feature(vit, folder):
    _, model = vit
    prints = [
        OpenClipFeatures(model, **options).space.fingerprint
        for options in ({}, {"short_side": 48}, {"attention": "naclip"}, {"attention": "naclip", "sigma": 3.0})
    ]
    torch.manual_seed(1)
    other = open_clip.CLIP(**VIT)
    save_file({k: v.contiguous() for k, v in other.state_dict().items()}, folder / "other.safetensors")
    (folder / "other.json").write_text(json.dumps(VIT))
    prints.append(
        OpenClipFeatures(
            load_model(str(folder / "other.json"), str(folder / "other.safetensors"), "cpu")
        ).space.fingerprint
    )
    assert len(set(prints)) == 5
    assert OpenClipFeatures(model).space.fingerprint == prints[0]


def test_wrong_settings(vit):
    _, model = vit
    for options in ({"attention": "soft"}, {"short_side": 0}, {"sigma": 0.0}):
        with pytest.raises(ConfigError):
            OpenClipFeatures(model, **options)


# -- DINOv2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dinov2-s14", "dinov2-s14-reg"])
def test_dinov2_from_a_file_in_timms_layout(folder, name):
    torch.manual_seed(0)
    reference = timm.create_model(VARIANTS[name], num_classes=0, dynamic_img_size=True).eval()
    with torch.no_grad():  # so that it is the same however it is interpolated, see test_dinov2.py
        reference.pos_embed[:] = torch.randn(reference.pos_embed.shape[-1])
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in reference.state_dict().items()}, path)
    extractor = DinoFeatures.load(name, str(path), short_side=28, device="cpu")
    features = extractor.extract([Image(np.ascontiguousarray(IMAGE[:28, :42]))])[0]
    assert features.data.shape == (384, 2, 3) and extractor.dim == 384
    pixels = (IMAGE[:28, :42] / 255 - np.array(reference.pretrained_cfg["mean"])) / np.array(
        reference.pretrained_cfg["std"]
    )
    with torch.no_grad():
        tokens = reference.forward_features(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())
    expected = tokens[0, reference.num_prefix_tokens :].T.reshape(384, 2, 3)
    np.testing.assert_allclose(features.data, expected.numpy(), atol=1e-4)


def test_dinov2_from_a_file_in_the_published_layout(folder):
    """The original names: ls1.gamma and register_tokens as timm's, a mask_token, and one position for the class token."""
    torch.manual_seed(0)
    reference = timm.create_model(VARIANTS["dinov2-s14-reg"], num_classes=0, dynamic_img_size=True).eval()
    state = {key: value.clone() for key, value in reference.state_dict().items()}
    published = {{"reg_token": "register_tokens"}.get(key, key): value for key, value in state.items()}
    published["mask_token"] = torch.zeros(1, 384)
    published["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), published["pos_embed"]], 1)
    torch.save(published, folder / "published.pth")
    loaded = DinoFeatures.load(
        "dinov2-s14-reg", str(folder / "published.pth"), short_side=28, device="cpu"
    )._model.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state if key not in ("cls_token",))


def test_dinov2_errors(folder):
    with pytest.raises(ConfigError, match="dinov2-b14-reg"):
        DinoFeatures.load("dinov9")
    with pytest.raises(WeightsError, match="no such file"):
        DinoFeatures.load("dinov2-s14", str(folder / "nothing.pth"))
    (folder / "text.pth").write_text("not weights")
    with pytest.raises(WeightsError, match="weights_file"):
        DinoFeatures.load("dinov2-s14", str(folder / "text.pth"), device="cpu")


def test_without_a_hub_the_message_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="or pass the checkpoint's path as `weights_file`") as dino:
        DinoFeatures.load("vit_small_patch14_dinov2.lvd142m", device="cpu")
    assert "fetch model.safetensors or" in str(dino.value) and f"{tmp_path}/dinov2-s14.safetensors" in str(dino.value)
    with pytest.raises(WeightsError, match="or pass the checkpoint's path as `pretrained`") as clip:
        load_model("ViT-B-16", "laion2b_s34b_b88k", "cpu")
    assert "https://huggingface.co/laion/CLIP-ViT-B-16-laion2B-s34B-b88K" in str(clip.value)
    assert f"put it at {tmp_path}/clip-vit-b-16-laion2b.safetensors" in str(clip.value)
    with pytest.raises(WeightsError, match="fetch them elsewhere, or pass"):  # a model that the table does not know
        load_model("ViT-B-32", "laion2b_s34b_b79k", "cpu")


# -- the folder for weights -------------------------------------------------------------------------------------------


def test_dinov2_from_the_folder(folder, monkeypatch):
    torch.manual_seed(3)
    reference = timm.create_model(VARIANTS["dinov2-s14"], num_classes=0, dynamic_img_size=True).eval()
    state = {key: value.contiguous() for key, value in reference.state_dict().items()}
    save_file(state, folder / "dinov2-s14.safetensors")
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(folder))
    for name in ("dinov2-s14", VARIANTS["dinov2-s14"]):
        loaded = DinoFeatures.load(name, short_side=28, device="cpu")._model.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.fixture
def published(folder, monkeypatch):
    """A small model as open_clip publishes them: a configuration by name, and a tag with its own normalisation."""
    (folder / "Small-ViT.json").write_text(json.dumps(VIT))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(folder / "Small-ViT.json")
    tag = {"hf_hub": "nobody/nothing/", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Small-ViT", {"atag": tag})
    entry = PublishedWeights(
        "Small-ViT/atag", "", 0, "", "", "nobody/nothing", ("a.bin",), place="small-vit.safetensors"
    )
    monkeypatch.setattr(knnseg.models.weights, "known", lambda: {"Small-ViT/atag": entry})
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(folder))
    yield folder
    load_model.cache_clear()


def test_a_file_in_the_folder_is_the_tag_with_its_activation_and_normalisation(published):
    torch.manual_seed(0)
    clip = open_clip.CLIP(**VIT, quick_gelu=True).eval()
    save_file(
        {key: value.contiguous() for key, value in clip.state_dict().items()}, published / "small-vit.safetensors"
    )
    model = load_model("Small-ViT", "atag", "cpu")
    assert model.mean == (0.5, 0.4, 0.3) and model.std == (0.2, 0.2, 0.1)
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        assert torch.equal(model.clip.encode_image(pixels), clip.encode_image(pixels))
    plain = load_model("Small-ViT", str(published / "small-vit.safetensors"), "cpu")  # a path has no tag
    prints = {OpenClipFeatures(loaded).space.fingerprint for loaded in (model, plain)}
    assert not isinstance(plain.clip.visual.transformer.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU)
    assert len(prints) == 2


def test_a_broken_file_in_the_folder_is_named(published):
    (published / "small-vit.safetensors").write_text("not weights")
    with pytest.raises(WeightsError, match=r"from .*small-vit\.safetensors: expected readable weights"):
        load_model("Small-ViT", "atag", "cpu")


def changed(folder, name, **changes):
    """The path of a configuration with some keys changed, and of weights of the first one."""
    _, config, path = written(folder, name, VIT)
    content = {key: value for key, value in (VIT | changes).items() if value is not ...}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return config, path


def test_every_key_of_a_configuration_counts(folder):
    plain, quick = (load_model(*changed(folder, f"g{q}", quick_gelu=q), "cpu").clip for q in (False, True))
    kinds = [{type(m).__name__ for m in clip.modules()} for clip in (plain, quick)]
    assert "QuickGELU" in kinds[1] - kinds[0]
    text = {key: value for key, value in VIT["text_cfg"].items() if key != "context_length"}
    with pytest.raises(WeightsError):  # the default of 77 does not fit these weights, and a bare KeyError is no help
        load_model(*changed(folder, "nolength", text_cfg=text | {"width": 32}), "cpu")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 2.5]}
    assert load_model(*changed(folder, "mean", preprocess_cfg=preprocess), "cpu").std == (1, 1, 2.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_cfg": ...}, "no usable text_cfg"), ({"multimodal_cfg": {}}, "multimodal_cfg.*nothing here uses"),
        ({"hidden_dim": 3}, "hidden_dim.*nothing here uses"), ({"custom_text": "yes"}, "custom_text: expected true or false"),
        ({"text_cfg": VIT["text_cfg"] | {"hf_tokenizer_name": "x"}}, "hf_tokenizer_name"),
        ({"vision_cfg": VIT["vision_cfg"] | {"patchsize": 8}}, "open_clip takes.*patchsize"),
        ({"preprocess_cfg": {"mean": [1, 2]}}, "preprocess_cfg.mean: expected three numbers"),
        ({"preprocess_cfg": {"std": [1, 0, 1]}}, "preprocess_cfg.std"),
    ],
)  # fmt: skip
def test_configurations_with_keys_of_no_use(folder, changes, said):
    with pytest.raises(ConfigError, match=said):
        load_model(*changed(folder, "keys", **changes), "cpu")


def test_a_vit_of_timm_with_a_classifier_is_loaded_strictly(folder):
    """timm leaves the classifier away, and stops looking at what else is missing."""
    network = timm.create_model("test_vit", dynamic_img_size=True)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    path = folder / "test_vit.safetensors"
    for content in (state, {key: value for key, value in state.items() if not key.startswith("head.")}):
        save_file(content, path)
        assert DinoFeatures.load("test_vit", str(path), short_side=32, device="cpu").dim == 64
    save_file({key: value for key, value in state.items() if key != "norm.weight"}, path)
    with pytest.raises(WeightsError, match=r"missing norm\.weight"):
        DinoFeatures.load("test_vit", str(path), short_side=32, device="cpu")
    save_file(state | {"strange.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"unknown strange\.weight"):
        DinoFeatures.load("test_vit", str(path), short_side=32, device="cpu")
