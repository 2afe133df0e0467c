"""Parameter groups by depth, and the running mean of the weights."""

import pytest
import torch

from hypervision import create_model
from pretrain.config import ObjectiveConfig, PretrainConfig
from pretrain.objective import PretrainModel
from pretrain.optimizing import MeanWeights, layer_of, parameter_groups
from sharding.errors import ConfigError

SMALL = {"image_size": 48, "embed_dim": 32, "depth": 3, "num_heads": 2, "global_blocks": [0, 1, 2], "neck_dim": 32}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PretrainModel(create_model("hypervision_nano", **SMALL), 0, ObjectiveConfig())


def test_every_parameter_is_in_one_group_and_deeper_ones_learn_faster(model):
    groups, shares = parameter_groups(model, PretrainConfig(layer_decay=0.5))
    wanted = {id(p) for p in model.parameters() if p.requires_grad}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(wanted)
    assert shares == [share for share in (0.5**4, 0.5**3, 0.5**2, 0.5, 1.0) for _ in range(2)]
    first = {id(p) for p in groups[1]["params"]}
    assert id(model.student.image_encoder.point_spectral_weight_bank_w) in first
    assert [
        layer_of(name, 3) for name in ("student.image_encoder.blocks.2.attn.qkv.weight", "spectrum.norm.weight")
    ] == [3, 4]
    groups, shares = parameter_groups(model, PretrainConfig())
    assert shares == [1, 1] and sum(len(group["params"]) for group in groups) == len(wanted)


def test_norms_biases_tables_and_tokens_are_not_decayed(model):
    (still, decayed), _ = parameter_groups(model, PretrainConfig(weight_decay=0.3))
    assert (still["weight_decay"], decayed["weight_decay"]) == (0.0, 0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    some = {names[id(p)] for p in still["params"]}
    for name in (
        "student.image_encoder.blocks.0.norm1.weight", "student.image_encoder.blocks.0.attn.qkv.bias",
        "student.image_encoder.blocks.0.attn.rel_pos_h", "student.mask_decoder.mask_tokens.weight",
        "student.prompt_encoder.point_embeddings.2.weight", "student.image_encoder.neck.1.weight",
        "spectrum.norm.weight",
    ):  # fmt: skip
        assert name in some, name
    rest = {names[id(p)] for p in decayed["params"]}
    assert {
        "student.image_encoder.point_spectral_weight_bank_w", "spectrum.query.0.weight",
        "student.mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight",
    } <= rest  # fmt: skip
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in rest)


def test_the_mean_follows_the_weights(model, tmp_path):
    student = model.student
    mean = MeanWeights(student, 0.9)
    name = "image_encoder.neck.0.weight"
    want = student.state_dict()[name].clone()
    for step in range(40):
        with torch.no_grad():
            student.state_dict()[name].add_(1.0)
        mean.update(student, step)
        decay = min(0.9, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * student.state_dict()[name]
    torch.testing.assert_close(mean.model.state_dict()[name], want)
    mean.save(tmp_path / "m.safetensors")
    other = MeanWeights(create_model("hypervision_nano", **SMALL), 0.9)
    other.load(tmp_path / "m.safetensors")
    for key, value in mean.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), key


def test_what_cannot_be_is_refused():
    for wrong in ({"layer_decay": 0.0}, {"layer_decay": 1.5}, {"ema": 1.0}):
        with pytest.raises(ConfigError, match=r"pretrain\.layer_decay must be above 0"):
            PretrainConfig(global_batch=8, **wrong).check(1)
