"""Checkpoints in detectron2's layout, written here key by key, give the outputs of the network they were taken from."""

import importlib.util
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from knnseg import Config, Image, Segmenter
from knnseg.errors import ConfigError, WeightsError
from knnseg.models.proposers import detectron2
from knnseg.models.proposers.queries import load_mask2former
from knnseg.stages import registry as stages

SWIN_BLOCK = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip
ENCODER_LAYER = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm", "norm2": "final_layer_norm"}


def detectron2_layout(hub):
    """The weights of a network in the hub's layout, as the original implementation names and stacks them."""
    taken, state = set(), {}

    def take(key):
        taken.add(key)
        return hub[key].clone()

    def put(new, old, kinds=("weight", "bias")):
        for kind in kinds:
            state[f"{new}.{kind}"] = take(f"{old}.{kind}")

    def numbers(pattern):
        return sorted({int(found[1]) for key in hub if (found := re.match(pattern, key))})

    body, pixel, query = (
        "model.pixel_level_module.encoder",
        "model.pixel_level_module.decoder",
        "model.transformer_module",
    )
    put("backbone.patch_embed.proj", f"{body}.embeddings.patch_embeddings.projection")
    put("backbone.patch_embed.norm", f"{body}.embeddings.norm")
    for i in range(4):
        put(f"backbone.norm{i}", f"{body}.hidden_states_norms.stage{i + 1}")
        for j in numbers(rf"model\.pixel_level_module\.encoder\.encoder\.layers\.{i}\.blocks\.(\d+)\."):
            new, old = f"backbone.layers.{i}.blocks.{j}", f"{body}.encoder.layers.{i}.blocks.{j}"
            for theirs, ours in SWIN_BLOCK.items():
                put(f"{new}.{theirs}", f"{old}.{ours}")
            for kind in ("weight", "bias"):
                parts = [take(f"{old}.attention.self.{part}.{kind}") for part in ("query", "key", "value")]
                state[f"{new}.attn.qkv.{kind}"] = torch.cat(parts)
            table = "relative_position_bias_table"
            state[f"{new}.attn.{table}"] = take(f"{old}.attention.self.{table}")
            state[f"{new}.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
        if i < 3:
            put(f"backbone.layers.{i}.downsample.norm", f"{body}.encoder.layers.{i}.downsample.norm")
            put(
                f"backbone.layers.{i}.downsample.reduction",
                f"{body}.encoder.layers.{i}.downsample.reduction",
                ["weight"],
            )
    head = "sem_seg_head.pixel_decoder"
    for i in range(3):
        for j in range(2):
            put(f"{head}.input_proj.{i}.{j}", f"{pixel}.input_projections.{i}.{j}")
    state[f"{head}.transformer.level_embed"] = take(f"{pixel}.level_embed")
    for i in numbers(r"model\.pixel_level_module\.decoder\.encoder\.layers\.(\d+)\."):
        for theirs, ours in ENCODER_LAYER.items():
            put(f"{head}.transformer.encoder.layers.{i}.{theirs}", f"{pixel}.encoder.layers.{i}.{ours}")
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            put(
                f"{head}.transformer.encoder.layers.{i}.self_attn.{part}",
                f"{pixel}.encoder.layers.{i}.self_attn.{part}",
            )
    for name in ("adapter_1", "layer_1"):
        put(f"{head}.{name}", f"{pixel}.{name}.0", ["weight"])
        put(f"{head}.{name}.norm", f"{pixel}.{name}.1")
    put(f"{head}.mask_features", f"{pixel}.mask_projection")
    predictor = "sem_seg_head.predictor"
    for i in numbers(r"model\.transformer_module\.decoder\.layers\.(\d+)\."):
        old = f"{query}.decoder.layers.{i}"
        for kind in ("weight", "bias"):
            parts = [take(f"{old}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            state[f"{predictor}.transformer_self_attention_layers.{i}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            state[f"{predictor}.transformer_cross_attention_layers.{i}.multihead_attn.in_proj_{kind}"] = take(
                f"{old}.cross_attn.in_proj_{kind}"
            )
        put(f"{predictor}.transformer_self_attention_layers.{i}.self_attn.out_proj", f"{old}.self_attn.out_proj")
        put(f"{predictor}.transformer_self_attention_layers.{i}.norm", f"{old}.self_attn_layer_norm")
        put(f"{predictor}.transformer_cross_attention_layers.{i}.multihead_attn.out_proj", f"{old}.cross_attn.out_proj")
        put(f"{predictor}.transformer_cross_attention_layers.{i}.norm", f"{old}.cross_attn_layer_norm")
        put(f"{predictor}.transformer_ffn_layers.{i}.linear1", f"{old}.fc1")
        put(f"{predictor}.transformer_ffn_layers.{i}.linear2", f"{old}.fc2")
        put(f"{predictor}.transformer_ffn_layers.{i}.norm", f"{old}.final_layer_norm")
    put(f"{predictor}.decoder_norm", f"{query}.decoder.layernorm")
    for i in range(3):
        put(f"{predictor}.mask_embed.layers.{i}", f"{query}.decoder.mask_predictor.mask_embedder.{i}.0")
    put(f"{predictor}.query_feat", f"{query}.queries_features", ["weight"])
    put(f"{predictor}.query_embed", f"{query}.queries_embedder", ["weight"])
    put(f"{predictor}.level_embed", f"{query}.level_embed", ["weight"])
    put(f"{predictor}.class_embed", "class_predictor")
    state["criterion.empty_weight"] = take("criterion.empty_weight")
    # older versions of transformers save the index that follows from the window's size
    left = {key for key in hub if key not in taken and not key.endswith("relative_position_index")}
    assert left <= {f"{body}.swin.layernorm.weight", f"{body}.swin.layernorm.bias"}  # transformers' own, not used
    return {key: value.contiguous() for key, value in state.items()}


def script(name):
    path = Path(__file__).parents[4] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_numbers_of_the_original(tmp_path):
    """The original Mask2Former on a Swin backbone, recorded by scripts/mask2former_reference.py; see there."""
    recipe, recorded = script("mask2former_reference"), np.load(Path(__file__).parent / "reference.npz")
    weights = recipe.weights(json.loads(str(recorded["shapes"])))
    path = write(tmp_path / "a.pth", {key: torch.from_numpy(value) for key, value in weights.items()})
    network, _ = detectron2.load(path)
    with torch.no_grad():
        made = network(pixel_values=torch.from_numpy(recipe.pixels()))
    np.testing.assert_allclose(made.class_queries_logits.numpy(), recorded["classes"], atol=1e-4)
    np.testing.assert_allclose(made.masks_queries_logits.numpy(), recorded["masks"], atol=5e-4)  # of up to ±25


@pytest.fixture(scope="module")
def network(tiny):
    """Class-agnostic, as EntitySeg's: one class and none."""
    return tiny.mask2former(labels=1, seed=3)


@pytest.fixture(scope="module")
def state(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    network.save_pretrained(folder)
    return detectron2_layout(load_file(folder / "model.safetensors"))


def write(path, state, wrapped=True):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state, "iteration": 3} if wrapped else state, path)
    return str(path)


def outputs(network, seed=0):
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made = network(pixel_values=pixels)
    return made.masks_queries_logits.numpy(), made.class_queries_logits.numpy()


@pytest.mark.parametrize(("name", "wrapped"), [("a.pth", True), ("a.pth", False), ("a.safetensors", False)])
def test_the_same_outputs_as_the_network_it_was_taken_from(network, state, tmp_path, name, wrapped):
    loaded, processor = detectron2.load(write(tmp_path / name, state, wrapped))
    for ours, theirs in zip(outputs(loaded), outputs(network), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert outputs(loaded)[1].shape == (1, 9, 2) and not loaded.training
    assert processor.size["shortest_edge"] == 800 and processor.size["longest_edge"] == 1333


def test_sizes_are_read_off_the_weights(network, state):
    config, own = detectron2.architecture(state), network.config
    for name in ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "encoder_layers",
                 "decoder_layers", "num_attention_heads", "dim_feedforward", "num_queries", "num_labels"):  # fmt: skip
        assert getattr(config, name) == getattr(own, name), name
    for name in ("depths", "num_heads", "window_size", "embed_dim", "patch_size", "mlp_ratio"):
        assert getattr(config.backbone_config, name) == getattr(own.backbone_config, name), name


def test_sizes_of_the_released_models_are_read_right():
    """EntitySeg's Swin-T and Swin-L, from shapes alone, which need no memory."""
    for dim, depths, heads in ((96, [2, 2, 6, 2], [3, 6, 12, 24]), (192, [2, 2, 18, 2], [6, 12, 24, 48])):
        swin = transformers.SwinConfig(
            embed_dim=dim,
            depths=depths,
            num_heads=heads,
            window_size=7,
            out_features=[f"stage{i}" for i in range(1, 5)],
        )
        own = transformers.Mask2FormerConfig(backbone_config=swin, num_labels=1)
        with torch.device("meta"):
            shapes = {}
            for i, (depth, number) in enumerate(zip(depths, heads, strict=True)):
                for j in range(depth):
                    shapes[f"backbone.layers.{i}.blocks.{j}.attn.relative_position_bias_table"] = (169, number)
            shapes |= {
                "backbone.patch_embed.proj.weight": (dim, 3, 4, 4), "backbone.layers.0.blocks.0.mlp.fc1.bias": (4 * dim,),
                "sem_seg_head.pixel_decoder.mask_features.weight": (256, 256, 1, 1),
                "sem_seg_head.predictor.decoder_norm.weight": (256,), "sem_seg_head.predictor.query_embed.weight": (100, 256),
                "sem_seg_head.predictor.class_embed.weight": (2, 256),
            }  # fmt: skip
            for i in range(6):
                layer = f"sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}"
                shapes |= {
                    f"{layer}.linear1.weight": (1024, 256),
                    f"{layer}.self_attn.attention_weights.weight": (96, 256),
                }
            for i in range(9):
                shapes[f"sem_seg_head.predictor.transformer_ffn_layers.{i}.linear1.weight"] = (2048, 256)
            config = detectron2.architecture({key: torch.empty(shape) for key, shape in shapes.items()})
        ours, theirs = config.to_dict(), own.to_dict()
        for part in (ours, theirs):
            part["backbone_config"] = {k: v for k, v in part["backbone_config"].items() if k not in ("image_size",)}
        assert ours == theirs


def test_as_a_stage(state, tmp_path, image):
    masks = load_mask2former(checkpoint=write(tmp_path / "a.pth", state), min_score=0.0, device="cpu").propose(
        [Image(image)]
    )[0]
    assert masks.size == (45, 71) and len(masks) > 0 and masks.instances


def test_the_checkpoint_of_the_command_line_reaches_it(state, tmp_path, image):
    path = write(tmp_path / "a.pth", state)
    config = Config.from_dict({"preset": "tiny", "masks": {"name": "mask2former", "min_score": 0.0}})
    with Segmenter.from_config(stages.with_checkpoint(config, path), device="cpu") as segmenter:
        result = segmenter.predict(image, ["kettle", "grass"])
    assert len(result.masks) > 0 and (result.semantic >= 0).any()


def test_a_folder_gives_sizes_and_preprocessing(m2f_folder, network, state, tmp_path, image, saved):
    path = write(tmp_path / "a.pth", state)
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 40, "longest_edge": 64})
    folder = saved("sizes", network, processor)
    (folder / "model.safetensors").unlink()  # sizes and preprocessing are all that is read
    one = load_mask2former(str(folder), path, min_score=0.0, device="cpu")
    assert one._processor.size["shortest_edge"] == 40 and len(one.propose([Image(image)])[0]) > 0
    with pytest.raises(WeightsError, match=r"class_predictor|mismatch"):
        load_mask2former(str(m2f_folder), path)  # of three classes
    with pytest.raises(ConfigError, match="expected a checkpoint of type mask2former, got bert"):
        (folder / "config.json").write_text('{"model_type": "bert"}')
        load_mask2former(str(folder), path)


def test_the_older_name_of_the_queries(network, state, tmp_path):
    old = {key.replace("query_feat", "static_query"): value for key, value in state.items()}
    loaded, _ = detectron2.load(write(tmp_path / "a.pth", old))
    np.testing.assert_allclose(outputs(loaded)[0], outputs(network)[0], atol=1e-5)


@pytest.mark.parametrize(
    "key",
    ["backbone.layers.2.blocks.1.attn.qkv.bias", "backbone.norm3.weight", "sem_seg_head.predictor.class_embed.weight",
     "sem_seg_head.pixel_decoder.transformer.level_embed", "sem_seg_head.predictor.query_feat.weight"],
)  # fmt: skip
def test_a_missing_key_is_refused(state, tmp_path, key):
    with pytest.raises(WeightsError, match="missing"):
        detectron2.load(write(tmp_path / "a.pth", {k: v for k, v in state.items() if k != key}))


def test_a_key_without_a_place_is_refused(state, tmp_path):
    hornet = state | {"backbone.stages.0.0.gnconv.proj_in.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"Swin backbone .* got the keys backbone\.stages\.0\.0\.gnconv"):
        detectron2.load(write(tmp_path / "a.pth", hornet))
    crop = state | {"sem_seg_head.predictor.make_3d.enc_ffn_3d.0.linear1.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="This is CropFormer"):
        detectron2.load(write(tmp_path / "b.pth", crop))
    extra = state | {"sem_seg_head.predictor.transformer_ffn_layers.0.linear3.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"linear3"):
        detectron2.load(write(tmp_path / "c.pth", extra))
    level = state | {"sem_seg_head.pixel_decoder.input_proj.3.0.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"input_projections\.3\.0\.weight too"):
        detectron2.load(write(tmp_path / "d.pth", level))


def test_a_pickle_is_not_read_and_the_message_says_what_to_do(state, tmp_path):
    """detectron2's .pkl files are plain pickles with arrays in them."""
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {key: value.numpy() for key, value in state.items()}}))
    with pytest.raises(WeightsError, match=r"may run code when it is read.*save_file"):
        detectron2.load(str(path))

    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="may run code"):
        detectron2.load(str(tmp_path / "bomb.pth"))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        detectron2.load(str(tmp_path / "nothing.pth"))
    with pytest.raises(WeightsError, match="tensors by key"):
        detectron2.load(write(tmp_path / "list.pth", [1, 2], wrapped=False))
    with pytest.raises(WeightsError, match="no_such_layer"):
        detectron2.load(write(tmp_path / "other.pth", {"no_such_layer": torch.zeros(1)}))


@pytest.mark.parametrize(
    "keys",
    [
        ("sem_seg_head.predictor.query_feat.weight", "sem_seg_head.predictor.static_query.weight"),
        ("backbone.layers.0.blocks.0.attn.qkv.bias", "backbone.layers.0.blocks.0.attn.key.bias"),
    ],
)
def test_two_keys_for_one_weight_are_refused(tmp_path, keys):
    save_file({key: torch.ones(6) for key in keys}, tmp_path / "m2f.safetensors")
    with pytest.raises(WeightsError, match=f"each weight once, got ({'|'.join(map(re.escape, keys))}) for"):
        detectron2.load(str(tmp_path / "m2f.safetensors"))
