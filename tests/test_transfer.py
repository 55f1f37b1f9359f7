"""Transfer: what is frozen stays bit for bit, what is loaded fits, or is refused."""

import hashlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.learn.model import transfer
from wsi_pipeline.learn.model.checkpoint import Checkpoint, save_checkpoint
from wsi_pipeline.learn.model.densenet import build_densenet
from wsi_pipeline.learn.model.transfer import (
    BLOCKS,
    block_of,
    freeze,
    freeze_at,
    load_weights,
    missing_groups,
    parameter_groups,
    pretrained,
)

FREEZABLE = ["none", "head", *BLOCKS]


def demo(classes: int = 2, *, seed: int = 0, in_channels: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return build_densenet("densenet_demo", classes, in_channels=in_channels)


def one_step(model: nn.Module) -> None:
    """A step of AdamW with strong weight decay, in training mode, on images far from what the norms know."""
    model.train()
    optimiser = torch.optim.AdamW(parameter_groups(model, 0.1, weight_decay=0.5))
    (model(3 + torch.rand(4, 3, 32, 32)) ** 2).sum().backward()
    optimiser.step()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def meta() -> nn.Module:
    with torch.device("meta"):
        return build_densenet("densenet121", 14)


def test_the_blocks_of_densenet121_have_the_published_sizes(meta: nn.Module) -> None:
    sizes = dict.fromkeys(BLOCKS, 0)
    for name, weight in meta.named_parameters():
        sizes[block_of(name)] += weight.numel()
    norm0 = 2 * 64
    assert [*sizes.values()] == [
        9_408 + norm0, 335_040, 33_280, 919_680, 132_096, 2_837_760, 526_336, 2_158_080, 2_048, 14_350,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("until", "free"),
    [("none", 6_968_206), ("conv0", 6_968_206), ("denseblock4", 2_160_128 + 14_350), ("head", 14_350)],
)
def test_freezing_densenet121_leaves_the_published_number_free(meta: nn.Module, until: str, free: int) -> None:
    freeze(meta, until)
    assert sum(weight.numel() for weight in meta.parameters() if weight.requires_grad) == free


@pytest.mark.parametrize("until", FREEZABLE)
def test_frozen_blocks_stay_bit_for_bit_and_all_others_move(until: str) -> None:
    model = freeze(demo(), until)
    before = state_of(model)
    one_step(model)
    start = {"none": 0, "head": len(BLOCKS) - 1}.get(until, BLOCKS.index(until) if until in BLOCKS else -1)
    for name, tensor in model.state_dict().items():
        if BLOCKS.index(block_of(name)) < start:
            assert torch.equal(tensor, before[name]), name
        elif "running" in name or name.endswith("weight"):
            assert not torch.equal(tensor, before[name]), name


def test_a_frozen_weight_has_no_gradient_not_even_an_old_one() -> None:
    model = demo()
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    freeze(model, "head")
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is not None] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_an_optimiser_made_before_freezing_does_not_decay_what_is_frozen() -> None:
    model = demo()
    optimiser = torch.optim.AdamW(parameter_groups(model, 0.1, weight_decay=0.5))
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimiser.step()
    freeze(model, "head")
    before = state_of(model)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    optimiser.step()
    assert torch.equal(model.get_parameter("features.conv0.weight"), before["features.conv0.weight"])
    assert not torch.equal(model.get_parameter("classifier.weight"), before["classifier.weight"])


def norms(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_batchnorm_on_a_constant_moves_as_computed_by_hand_and_frozen_not_at_all() -> None:
    # Statistics (0, 1), momentum 0.1, input 3 everywhere: mean 0.1 * 3, variance 0.9 * 1 + 0.1 * 0.
    model, threes = demo(), torch.full((4, 16, 16, 16), 3.0)
    norm0 = model.get_submodule("features.norm0")
    freeze(model, "denseblock1").train()
    norm0(threes)
    assert norm0.running_mean.tolist() == [0.0] * 16 and norm0.running_var.tolist() == [1.0] * 16
    freeze(model, "none").train()
    norm0(threes)
    assert norm0.running_mean.tolist() == pytest.approx([0.3] * 16)
    assert norm0.running_var.tolist() == pytest.approx([0.9] * 16)


def test_freezing_survives_train_eval_and_a_copy() -> None:
    model = deepcopy(freeze(demo(), "head").eval().train())
    assert model.training and not any(norm.training for norm in norms(model))
    model.get_submodule("features").train()
    assert not any(norm.training for norm in norms(model))
    assert all(norm.training for norm in norms(freeze(model, "none")))
    assert not any(norm.training for norm in norms(freeze(model.eval(), "none")))


def test_freezing_changes_no_output_and_no_name() -> None:
    model, images = demo().eval(), torch.rand(2, 3, 32, 32)
    names, before = list(model.state_dict()), model(images)
    assert torch.equal(freeze(model, "denseblock3")(images), before)
    assert list(model.state_dict()) == names


def test_an_unknown_block_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"freeze 'layer4': no such block; use one of none, head, conv0, denseblock1"):
        freeze(demo(), "layer4")


def test_blocks_thaw_by_a_schedule() -> None:
    schedule = {0: "head", 2: "denseblock4", 3: "none"}
    assert [freeze_at(epoch, schedule) for epoch in range(5)] == ["head", "head", "denseblock4", "none", "none"]
    with pytest.raises(ConfigError, match="only thaw"):
        freeze_at(0, {0: "denseblock4", 1: "head"})
    with pytest.raises(ConfigError, match="says nothing for epoch 0"):
        freeze_at(0, {1: "head"})


def test_thawed_weights_join_the_optimiser_and_only_they() -> None:
    model = freeze(demo(), "head")
    optimiser = torch.optim.SGD(parameter_groups(model, 0.1))
    freeze(model, "norm5")
    new = missing_groups(optimiser, parameter_groups(model, 0.1, block_decay=0.5))
    assert [(group["name"], group["lr"]) for group in new] == [("norm5 norm and bias", 0.05)]
    optimiser.add_param_group(new[0])
    assert missing_groups(optimiser, parameter_groups(model, 0.1)) == []


def test_earlier_blocks_learn_slower_and_norm_and_bias_do_not_decay() -> None:
    model = demo()
    groups = {group["name"]: group for group in parameter_groups(model, 1.0, block_decay=0.5, weight_decay=0.1)}
    assert groups["classifier"]["lr"] == groups["classifier norm and bias"]["lr"] == 1.0
    assert groups["denseblock4"]["lr"] == 0.25 and groups["conv0"]["lr"] == 0.5**9
    assert groups["classifier"]["weight_decay"] == 0.1
    for name, group in groups.items():
        assert (group["weight_decay"] == 0) == name.endswith("norm and bias")
        assert all((weight.ndim == 1) == name.endswith("norm and bias") for weight in group["params"])
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))


def test_a_model_that_is_frozen_whole_has_nothing_to_train() -> None:
    with pytest.raises(ConfigError, match="nothing to train; freeze less"):
        parameter_groups(demo().requires_grad_(False), 0.1)


def old_style(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as files from before torchvision 0.3 name them: norm.1, conv.2, no counters."""
    renamed = {}
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            parts = name.split(".")
            if len(parts) == 5 and parts[3] in ("norm1", "norm2", "conv1", "conv2"):
                parts[3:4] = [parts[3][:4], parts[3][4]]
            renamed[".".join(parts)] = tensor.clone()
    return renamed


def test_old_names_of_densenet121_are_580_of_606() -> None:
    with torch.device("meta"):
        state = build_densenet("densenet121", 1000).state_dict()
    old = old_style(state)
    assert len(old) == 606 and len(old.keys() - state.keys()) == 580
    assert {transfer._current_name(name) for name in old} == {n for n in state if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize("prefix", ["", "module.", "module.densenet121."])
def test_old_files_load_to_the_last_bit(tmp_path: Path, prefix: str) -> None:
    source, target = demo(seed=1), demo(seed=2)
    torch.save({prefix + name: tensor for name, tensor in old_style(source.state_dict()).items()}, tmp_path / "old.pth")
    assert load_weights(target, tmp_path / "old.pth") is target
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())


def test_a_file_of_two_networks_is_refused(tmp_path: Path) -> None:
    student, teacher = (demo(seed=seed).state_dict() for seed in (1, 2))
    both = {f"student.{name}": one for name, one in student.items()}
    torch.save(both | {f"teacher.{name}": one for name, one in teacher.items()}, tmp_path / "both.pth")
    with pytest.raises(ModelError, match=r"several networks, such as of student\.features\S+ and teacher\.features"):
        load_weights(demo(seed=3), tmp_path / "both.pth")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(state_of(demo(seed=1)), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_a_head_of_another_shape_is_left_as_it_is(file: Path) -> None:
    target = demo(5, seed=2)
    head = target.get_parameter("classifier.weight").clone()
    load_weights(target, file)
    assert torch.equal(target.get_parameter("classifier.weight"), head)
    assert torch.equal(
        target.get_parameter("features.conv0.weight"), demo(seed=1).get_parameter("features.conv0.weight")
    )


def test_one_channel_gets_the_sum_and_answers_as_rgb_does_on_grey(file: Path) -> None:
    rgb, grey = load_weights(demo(), file).eval(), load_weights(demo(in_channels=1), file).eval()
    assert torch.equal(
        grey.get_parameter("features.conv0.weight"), rgb.get_parameter("features.conv0.weight").sum(1, keepdim=True)
    )
    image = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(grey(image), rgb(image.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_the_digest_of_a_file_is_checked_when_given(file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    load_weights(demo(), file, sha256=digest)
    load_weights(demo(), file, sha256=digest[:8].upper())
    for wrong in ("0" * 64, digest[:7], ""):
        with pytest.raises(ModelError, match=f"sha256 is {digest}, not"):
            load_weights(demo(), file, sha256=wrong)


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {f"layer.{k}": t for k, t in enumerate(s.values())}, "matches nothing: layer.0, .* for classifier"),
        (lambda s: {n: t for n, t in s.items() if n.startswith("classifier")}, "matches nothing"),
        (lambda _: {}, "matches nothing"),
        (lambda s: {n: t for n, t in s.items() if "norm5.weight" not in n}, r"1 weights missing \(features.norm5.weig"),
        (lambda s: s | {"features.denseblock4.denselayer9.conv1.weight": torch.ones(1)}, r"1 too many \(features"),
        (lambda s: s | {"features.norm5.weight": torch.ones(3)}, r"first is features.norm5.weight: \(3,\) for"),
        (lambda s: s | {"features.norm5.weight": s["features.norm5.weight"] * float("inf")}, "not finite"),
    ],
    ids=["other names", "head alone", "empty", "missing", "extra", "shape", "not finite"],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path: Path, change: Change, words: str) -> None:
    torch.save(change(state_of(demo(seed=1))), tmp_path / "other.pth")
    model = demo()
    before = state_of(model)
    with pytest.raises(ModelError, match=words):
        load_weights(model, tmp_path / "other.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(demo(), tmp_path / "whole.pth")
    with pytest.raises(ModelError, match="so it is refused"):
        load_weights(demo(), tmp_path / "whole.pth")


def test_a_checkpoint_of_ours_is_a_start_for_other_classes(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"positive": (), "exclusive": False, "input_px": 64, "mpp": None}
    fields |= {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    saved = Checkpoint("densenet_demo", ("a", "b"), state=demo(seed=1).state_dict(), **fields)
    save_checkpoint(saved, tmp_path, half=True)
    model = pretrained(demo(4), tmp_path)
    expected = torch.tensor(saved.state["features.conv0.weight"]).half().float()
    assert torch.equal(model.get_parameter("features.conv0.weight"), expected)


def test_nothing_is_loaded_for_none_and_a_model_of_the_box_by_its_name() -> None:
    model = demo(1)
    before = state_of(model)
    assert torch.equal(pretrained(model, "none").state_dict()["classifier.bias"], before["classifier.bias"])
    assert not torch.equal(pretrained(model, "demo").state_dict()["classifier.bias"], before["classifier.bias"])


def test_imagenet_weights_are_fetched_by_torchvisions_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def library(url: str, **options: Any) -> dict[str, Tensor]:
        asked.update(options, url=url)
        return old_style(build_densenet("densenet121", 1000).state_dict())

    monkeypatch.setattr(transfer, "load_state_dict_from_url", library)
    pretrained(build_densenet("densenet121", 3), "imagenet")
    assert asked["url"].endswith("densenet121-a639ec97.pth") and asked["check_hash"] and asked["weights_only"]
    with pytest.raises(ModelError, match=r"no such weights for blocks of \(3, 3, 3, 3\) layers; use densenet121"):
        pretrained(demo(), "imagenet")


def test_offline_says_what_to_do_instead_of_starting_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, **_: Any) -> dict[str, Tensor]:
        raise URLError("no network")

    monkeypatch.setattr(transfer, "load_state_dict_from_url", offline)
    with pytest.raises(ModelError, match=r"cannot be had .*no network.*; where there is a network download it"):
        pretrained(build_densenet("densenet121", 3), "imagenet")
