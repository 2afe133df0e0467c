"""How a student starts: prompts that know their place, and a decoder that was trained elsewhere."""

import pytest
import torch

from hypervision import create_model, save_weights
from pretrain.config import ModelConfig, ObjectiveConfig, PretrainConfig, RunSpec
from pretrain.starting import let_prompts_speak
from pretrain.student import build_student, load_decoder, untrained_student
from sharding.errors import ConfigError, InputError

SMALL = {"image_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_blocks": [0, 1], "neck_dim": 32}


def spec(masks=0.5, **model):
    from distill.views import TeacherConfig

    pretrain = PretrainConfig(objective=ObjectiveConfig(masks=masks))
    return RunSpec("w", [], 3, 1, ModelConfig("hypervision_nano", options=SMALL, **model), TeacherConfig(), pretrain)


def own_place(model):
    """Attention of a prompt in cell (5, 2) of a 12 x 12 grid for that cell, in the first layer, least of all heads."""
    encoder, look = model.prompt_encoder, model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    grid = encoder.dense_position(12, 12)[0].flatten(1).T
    point = encoder.pe_layer(torch.tensor([[(2 + 0.5) / 12, (5 + 0.5) / 12]]))
    query, key = look.q_proj(point), look.k_proj(grid)
    score = (query.unflatten(1, (8, -1)) * key.unflatten(1, (8, -1))).sum(2) / (query.shape[1] / 8) ** 0.5
    return score.softmax(0)[5 * 12 + 2]


def test_a_prompt_attends_to_its_own_place_from_the_start():
    torch.manual_seed(0)
    model = create_model("hypervision_nano")
    before = own_place(model).mean()
    let_prompts_speak(model)
    assert before < 2 / 144 < 8 / 144 < own_place(model).mean()


def test_only_a_start_from_nothing_that_learns_masks_is_changed(tmp_path):
    plain = build_student(spec(masks=0.0)).state_dict()
    look = "mask_decoder.transformer.layers.0.cross_attn_token_to_image."
    assert not torch.equal(plain[look + "q_proj.weight"], plain[look + "k_proj.weight"])
    speaking = build_student(spec()).state_dict()
    assert torch.equal(speaking[look + "q_proj.weight"], speaking[look + "k_proj.weight"])
    torch.manual_seed(1)
    save_weights(create_model("hypervision_nano", input_mode="shape", **SMALL), tmp_path / "m.safetensors")
    loaded = build_student(spec(checkpoint=str(tmp_path / "m.safetensors"))).state_dict()
    assert not torch.equal(loaded[look + "q_proj.weight"], loaded[look + "k_proj.weight"])


def test_a_decoder_that_was_trained_elsewhere_is_taken_whole_or_not_at_all(tmp_path):
    torch.manual_seed(1)
    other = create_model("hypervision_nano", **{**SMALL, "embed_dim": 64})
    save_weights(other, tmp_path / "sam.pth")
    student = build_student(spec(decoder=str(tmp_path / "sam.pth")))
    for name, value in student.state_dict().items():
        if name.startswith(("prompt_encoder.", "mask_decoder.")):
            assert torch.equal(value, other.state_dict()[name]), name
    with pytest.raises(InputError, match=r"from another size.*neck_dim 256"):
        load_decoder(create_model("hypervision_nano"), tmp_path / "sam.pth")
    state = {name: value for name, value in other.state_dict().items() if "iou_token" not in name}
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(InputError, match="missing 1"):
        load_decoder(create_model("hypervision_nano", **SMALL), tmp_path / "cut.pth")
    with pytest.raises(ConfigError, match="is not there"):
        ModelConfig(decoder=str(tmp_path / "none.pt")).check()


def test_the_decoder_of_mobile_sam_loads_with_nothing_missing_and_nothing_left(shared):
    model = create_model("hypervision_nano", neck_dim=256)
    report = load_decoder(model, shared("weights/mobile_sam.fp16.pt"))
    assert not report.missing and not report.unexpected and not report.resized and report.loaded > 100


def test_an_untrained_student_moves_no_random_state(tmp_path):
    save_weights(create_model("hypervision_nano", input_mode="shape", **SMALL), tmp_path / "m.safetensors")
    own = spec(checkpoint=str(tmp_path / "m.safetensors"))
    before = torch.random.get_rng_state()
    first, again = (untrained_student(own).state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    name = "image_encoder.point_spectral_weight_bank_w"
    assert torch.equal(first[name], again[name]) and not torch.equal(first[name], build_student(own).state_dict()[name])
