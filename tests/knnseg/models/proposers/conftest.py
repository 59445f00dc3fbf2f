"""Small random networks, saved by transformers itself in the format of the hub."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

# Two threads that wait for each other make networks of this size several times slower.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4],
    "window_size": 4,
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
M2F = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24, "dim_feedforward": 40,
    "encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 9,
}  # fmt: skip
EOMT = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
    "num_blocks": 1, "num_queries": 6, "num_labels": 3,
}  # fmt: skip
SAM = {
    "vision_config": {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 8, "window_size": 4, "mlp_dim": 32, "global_attn_indexes": [0], "num_pos_feats": 8,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
    },
}  # fmt: skip
HIERA = {
    "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64], "window_size_per_stage": [4, 4, 4, 4],
    "num_attention_heads_per_stage": [1, 1, 2, 2], "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}  # fmt: skip
SAM2 = {
    "vision_config": {
        "model_type": "sam2_vision_model", "backbone_config": HIERA, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16,
    },
    "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
    "mask_decoder_config": SAM["mask_decoder_config"],
}  # fmt: skip
VIDEO = {
    "image_size": 64, "memory_attention_hidden_size": 16, "memory_attention_feed_forward_hidden_size": 16,
    "memory_attention_num_layers": 1, "memory_attention_rope_feat_sizes": [4, 4], "memory_encoder_hidden_size": 16,
    "memory_encoder_output_channels": 8, "mask_downsampler_embed_dim": 16, "memory_fuser_embed_dim": 16,
    "memory_fuser_intermediate_dim": 16, "memory_fuser_num_layers": 1,
}  # fmt: skip


def spread(network, by=4.0):
    """Larger weights at the end, so that random masks and classes differ from each other as those of trained ones do."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if any(
                part in name
                for part in ("class_predictor.weight", "mask_head", "mask_embedder", "upscale", "iou_", "hypernetworks")
            ):
                weight.mul_(by)
    return network


def mask2former(backbone=None, labels=3, seed=0, **options):
    torch.manual_seed(seed)
    backbone = backbone or transformers.SwinConfig(**SWIN, out_features=STAGES)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=labels, **M2F | options)
    return spread(transformers.Mask2FormerForUniversalSegmentation(config)).eval()


def eomt(seed=0):
    torch.manual_seed(seed)
    return spread(transformers.EomtForUniversalSegmentation(transformers.EomtConfig(**EOMT))).eval()


@pytest.fixture(scope="session")
def tiny():
    """What builds the networks, for tests that need another."""
    return SimpleNamespace(mask2former=mask2former, eomt=eomt, EOMT=EOMT, STAGES=STAGES, SWIN=SWIN, M2F=M2F)


@pytest.fixture(scope="session", autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """saved(name, network, processor) -> folder."""

    def save(name, network, processor):
        folder = tmp_path_factory.mktemp(name)
        network.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def m2f_folder(saved):
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 60, "longest_edge": 100})
    return saved("mask2former", mask2former(), processor)


@pytest.fixture(scope="session")
def eomt_folder(saved):
    """As published for panoptic segmentation: resized to fit a square, and padded to it."""
    size = {"shortest_edge": 64, "longest_edge": 64}
    return saved("eomt", eomt(), transformers.EomtImageProcessor(size=size, do_pad=True))


@pytest.fixture(scope="session")
def eomt_windows_folder(saved):
    """As published for semantic segmentation: the shorter side fits a square, which is moved along the longer one."""
    size = {"shortest_edge": 64, "longest_edge": None}
    return saved("eomt-windows", eomt(1), transformers.EomtImageProcessor(size=size, do_split_image=True))


@pytest.fixture(scope="session")
def sam_folder(saved):
    torch.manual_seed(0)
    network = spread(transformers.SamModel(transformers.SamConfig(**SAM)), 15)
    square, small = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    processor = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size=square, mask_size={"longest_edge": 16}, mask_pad_size=small
    )
    return saved("sam", network, processor)


@pytest.fixture(scope="session")
def sam2_folder(saved):
    """As published: the weights of the video model, of which the image model takes its part."""
    torch.manual_seed(0)
    parts = {
        "prompt_encoder_config": transformers.Sam2VideoPromptEncoderConfig(**SAM2["prompt_encoder_config"]),
        "mask_decoder_config": transformers.Sam2VideoMaskDecoderConfig(**SAM2["mask_decoder_config"]),
    }
    network = spread(transformers.Sam2VideoModel(transformers.Sam2VideoConfig(**SAM2 | parts, **VIDEO)), 15)
    return saved("sam2", network, transformers.Sam2ImageProcessor(size={"height": 64, "width": 64}))


@pytest.fixture(scope="session")
def image():
    """Odd sizes, nothing square, structure at several scales."""
    y, x = np.mgrid[:45, :71]
    waves = [np.sin(x / a + y / b) for a, b in ((5, 9), (11, 4), (3, 30))]
    noise = np.random.default_rng(0).normal(0, 0.2, (45, 71, 3))
    return np.clip((np.stack(waves, -1) + noise + 1) * 127, 0, 255).astype(np.uint8)
