from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import make_checkpoint, make_network

from convkit import Dim, Request, SourceModel, exactly
from convkit.errors import CheckpointError, SettingError
from convkit.model import patched
from convkit_models.centernet import (
    convkit_adapters,
    convkit_decode,
    convkit_export_patches,
    convkit_preprocess,
)
from convkit_models.centernet._adapter import CenterNet
from convkit_models.centernet._names import KITTI_CALIBRATION
from convkit_models.centernet.tasks.ctdet import ProDecode
from convkit_models.centernet.tasks.ddd import SpaceDecode
from convkit_models.centernet.tasks.exdet import ExtremeDecode
from convkit_models.centernet.tasks.multi_pose import PoseDecode

DIMS = (Dim("batch", 1, 1, 8), Dim.fixed("height", 64), Dim.fixed("width", 96))
RANGES = (Dim("batch", 1, 1, 8), Dim("height", 64, 128, 256), Dim("width", 96, 128, 256))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("weights") / "resdcn_18.pth", width=0.05)


def load(weights: Path, form: str = "heads", **request: Any) -> SourceModel:
    return CenterNet().load(Request(weights, form, **{"dims": DIMS, **request}))


def test_the_entry_point_is_light() -> None:
    code = """
import sys
import convkit_models.centernet as entry
(adapter,) = entry.convkit_adapters()
assert adapter.name == "centernet"
heavy = {"torch", "numpy", "cv2", "onnx", "onnxruntime", "onnxscript"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_declaration() -> None:
    (adapter,) = convkit_adapters()
    assert adapter.forms == ("heads", "tensorrt-pro", "detections")
    assert {dim.name: (dim.min, dim.opt, dim.max, dim.multiple_of) for dim in adapter.dims} == {
        "batch": (1, 1, 8, 1),
        "height": (512, 512, 512, 32),
        "width": (512, 512, 512, 32),
    }
    assert {option.name: option.default for option in adapter.options} == {
        "resize": "fix_res",
        "mean": (0.40789654, 0.44719302, 0.47026115),
        "std": (0.28863828, 0.27408164, 0.27809835),
        "entry": "",
        "topk": 100,
        "decode": "official",
        "confidence": 0.25,
        "nms": 0.5,
        "calibration": KITTI_CALIBRATION,
        "aggregate": 0.0,
    }


class TestSpecification:
    def test_of_a_deformable_network(self, weights: Path) -> None:
        spec = load(weights).spec
        assert spec.variant == "resdcn_18"
        assert [(tensor.name, tensor.shape) for tensor in spec.inputs] == [("images", ("batch", 3, "height", "width"))]
        assert [(tensor.name, tensor.shape) for tensor in spec.outputs] == [
            ("hm", ("batch", 3, "height/4", "width/4")),
            ("wh", ("batch", 2, "height/4", "width/4")),
            ("reg", ("batch", 2, "height/4", "width/4")),
        ]
        assert spec.expect == {"centernet.output-form": exactly(1), "dcnv2.fold-batchnorm": exactly(3)}
        assert spec.classes == ("class 0", "class 1", "class 2")

    def test_of_a_plain_network(self, tmp_path: Path) -> None:
        spec = load(make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads={"hm": 2, "wh": 2})).spec
        assert spec.variant == "res_18"
        assert [tensor.name for tensor in spec.outputs] == ["hm", "wh"]
        assert spec.expect == {"centernet.output-form": exactly(1)}

    @pytest.mark.parametrize(
        ("form", "name", "shape", "compare"),
        [
            ("tensorrt-pro", "output", ("batch", "height/4*width/4", 10), "values"),
            ("detections", "detections", ("batch", 100, 6), "results"),
        ],
    )
    def test_of_the_other_forms(self, weights: Path, form: str, name: str, shape: Any, compare: str) -> None:
        (output,) = load(weights, form).spec.outputs
        assert (output.name, output.shape, output.compare) == (name, shape, compare)

    @pytest.mark.parametrize("form", ["heads", "detections"])
    def test_of_poses(self, tmp_path: Path, form: str) -> None:
        heads = {"hm": 1, "wh": 2, "reg": 2, "hps": 34, "hm_hp": 17, "hp_offset": 2}
        path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads=heads)
        spec = load(path, form).spec
        found = [(output.name, output.shape[1], output.compare) for output in spec.outputs]
        assert found == (
            [("poses", 100, "results")] if form == "detections" else [(n, c, "values") for n, c in heads.items()]
        )
        assert (spec.variant, spec.classes, spec.info["task"]) == ("res_18-pose", ("person",), "multi_pose")
        assert len(spec.decode["joints"]) == 17
        assert isinstance(convkit_decode(json.loads(json.dumps(spec.decode))), PoseDecode)
        for request, said in (
            ({"form": "tensorrt-pro"}, "multi_pose has no output form 'tensorrt-pro'"),
            ({"options": {"decode": "tensorrt-pro"}}, "multi_pose has no decoding 'tensorrt-pro'"),
        ):
            with pytest.raises(SettingError, match=said):
                load(path, **request)  # type: ignore[arg-type]

    def test_of_boxes_in_space(self, tmp_path: Path) -> None:
        heads = {"hm": 3, "wh": 2, "reg": 2, "dep": 1, "rot": 8, "dim": 3}
        path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads=heads)
        spec = load(path, options={"decode": "fixed"}).spec
        assert [(output.name, output.shape[1]) for output in spec.outputs] == list(heads.items())
        assert (spec.variant, spec.classes) == ("res_18-space", ("Pedestrian", "Car", "Cyclist"))
        assert spec.decode["fixed"] is True
        assert spec.decode["calibration"] == list(KITTI_CALIBRATION)
        assert (spec.preprocess["mean"], spec.preprocess["side"]) == ([0.485, 0.456, 0.406], "width")
        assert load(path, options={"mean": (0.4, 0.4, 0.4)}).spec.preprocess["mean"] == [0.4, 0.4, 0.4]
        assert isinstance(convkit_decode(json.loads(json.dumps(spec.decode))), SpaceDecode)
        bare = {name: count for name, count in heads.items() if name != "wh"}
        assert len(load(make_checkpoint(path, "res_18", width=0.05, heads=bare)).spec.outputs) == 5
        for request, said in (
            ({"form": "detections"}, "ddd has no output form 'detections'"),
            ({"options": {"calibration": (1.0, 2.0)}}, "'calibration' has 2 numbers"),
            ({"options": {"resize": "keep_res"}}, "ddd has no resize=keep_res"),
        ):
            with pytest.raises(SettingError, match=said):
                load(path, **request)  # type: ignore[arg-type]

    def test_of_extreme_points(self, tmp_path: Path) -> None:
        heads = {f"hm_{side}": 4 for side in "tlbr"} | {f"reg_{side}": 2 for side in "tlbr"} | {"hm_c": 4}
        path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads=heads)
        spec = load(path).spec
        assert [(output.name, output.shape[1]) for output in spec.outputs] == list(heads.items())
        assert (spec.variant, len(spec.classes), spec.decode["fixed"]) == ("res_18-extreme", 4, False)
        assert isinstance(convkit_decode(json.loads(json.dumps(spec.decode))), ExtremeDecode)
        assert load(path, options={"aggregate": 0.1}).spec.decode["aggregate"] == 0.1
        with pytest.raises(SettingError, match=r"'aggregate' cannot be 1\.5"):
            load(path, options={"aggregate": 1.5})
        agnostic = {name: 1 if name[:3] == "hm_" and name != "hm_c" else count for name, count in heads.items()}
        assert len(load(make_checkpoint(path, "res_18", width=0.05, heads=agnostic)).spec.classes) == 4

    @pytest.mark.parametrize(
        ("heads", "said"),
        [
            ({"hm": 3, "wh": 2, "dep": 1, "rot": 7, "dim": 3}, "a head rot of 7 channels"),
            ({"hm": 3, "wh": 2, "dep": 1, "rot": 8}, "no head 'dim'"),
            ({f"hm_{side}": 4 for side in "tlbrc"} | {"reg_t": 2}, "only reg_t"),
            ({f"hm_{side}": 4 for side in "tlbr"} | {"hm_c": 5}, "a head hm_t of 4 channels"),
            ({"hm": 1, "wh": 2, "hps": 34, "dep": 1}, "heads of the task multi_pose, and others: dep"),
            ({"hm": 1, "wh": 2, "hps": 34, "hm_hp": 16}, "a head hm_hp of 16 channels"),
            ({"hm": 2, "wh": 2, "hps": 34}, "a head hm of 2 channels"),
            ({"hm": 1, "wh": 2, "hps": 33}, "a head hps of 33 channels"),
            ({"hm": 1, "wh": 2, "hm_hp": 17}, "no head 'hps'"),
            ({"hm": 1, "wh": 2, "hps": 34, "hp_offset": 2}, "hp_offset, but no head hm_hp"),
        ],
    )
    def test_heads_that_do_not_belong_together(self, tmp_path: Path, heads: dict[str, int], said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            load(make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads=heads))

    def test_survives_json(self, weights: Path) -> None:
        spec = load(weights).spec
        for part in (spec.preprocess, spec.decode, spec.info):
            assert json.loads(json.dumps(part)) == part

    def test_info_for_people(self, weights: Path) -> None:
        info = load(weights).spec.info
        network = make_network(width=0.05)
        assert info["architecture"] == "resdcn_18"
        assert info["parameters"] == sum(parameter.numel() for parameter in network.parameters())
        assert (info["classes"], info["head_conv"]) == (3, {"hm": 16, "wh": 16, "reg": 16})
        assert (info["epoch"], info["file_format"], info["notes"]) == (140, "zip", [])

    def test_dimensions_are_narrowed_to_the_stride(self, weights: Path) -> None:
        assert [dim.multiple_of for dim in load(weights).spec.dims] == [1, 32, 32]
        with pytest.raises(SettingError, match="'height' cannot be 100"):
            load(weights, dims=(Dim.fixed("batch", 1), Dim.fixed("height", 100), Dim.fixed("width", 96)))

    @pytest.mark.parametrize(("count", "first"), [(80, "person"), (20, "aeroplane")])
    def test_names_of_the_known_data_sets(self, tmp_path: Path, count: int, first: str) -> None:
        spec = load(make_checkpoint(tmp_path / "w.pth", "res_18", classes=count, width=0.05)).spec
        assert (len(spec.classes), spec.classes[0]) == (count, first)
        assert spec.decode["classes"] == list(spec.classes)

    def test_the_decoding_of_tensorrt_pro(self, weights: Path) -> None:
        spec = load(weights, options={"decode": "tensorrt-pro", "nms": 0.6}).spec
        expected = {"mode": "tensorrt-pro", "confidence": 0.25, "nms": 0.6}
        assert {name: spec.decode[name] for name in expected} == expected
        assert isinstance(convkit_decode(spec.decode), ProDecode)
        assert not expected.keys() & load(weights).spec.decode.keys()

    def test_own_names(self, weights: Path) -> None:
        assert load(weights, names=("cat", "dog", "owl")).spec.classes == ("cat", "dog", "owl")
        with pytest.raises(SettingError, match="2 class names, but the network has 3"):
            load(weights, names=("cat", "dog"))


class TestRefusals:
    def test_more_detections_than_cells(self, weights: Path) -> None:
        with pytest.raises(SettingError, match="has 64 cells, fewer than the 100") as error:
            load(weights, "detections", dims=(Dim.fixed("batch", 1), Dim("height", 32, 64, 64), Dim.fixed("width", 32)))
        assert "topk=64" in error.value.hint
        small = (Dim.fixed("batch", 1), Dim.fixed("height", 32), Dim.fixed("width", 32))
        assert load(weights, "detections", dims=small, options={"topk": 64}).spec.outputs[0].shape[1] == 64
        assert load(weights, "heads", dims=small).spec.decode["topk"] == 100

    def test_boxes_that_were_chosen_already(self, weights: Path) -> None:
        with pytest.raises(SettingError, match="that the official decoding chose"):
            load(weights, "detections", options={"decode": "tensorrt-pro"})

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"topk": 0}, "'topk' cannot be 0"),
            ({"std": (0.2, 0.0, 0.2)}, "a std of 0.2, 0, 0.2"),
            ({"resize": "keep_res"}, "height and width are fixed"),
            ({"decode": "tensorrt-pro", "confidence": 1.0}, "'confidence' cannot be 1.0"),
            ({"decode": "tensorrt-pro", "nms": 0.0}, "'nms' cannot be 0.0"),
        ],
    )
    def test_options_that_cannot_be_obeyed(self, weights: Path, options: dict[str, Any], said: str) -> None:
        with pytest.raises(SettingError, match=said):
            load(weights, options=options)

    def test_the_packed_form_has_no_room_for_sizes_per_class(self, tmp_path: Path) -> None:
        path = make_checkpoint(tmp_path / "w.pth", "res_18", width=0.05, heads={"hm": 4, "wh": 8, "reg": 2})
        with pytest.raises(SettingError, match="no room"):
            load(path, "tensorrt-pro")
        assert load(path, "detections").spec.decode["sizes_per_class"] is True

    def test_a_checkpoint_that_does_not_fit(self, tmp_path: Path) -> None:
        path = make_checkpoint(
            tmp_path / "w.pth", "res_18", width=0.05, edit=lambda content: content["state_dict"].pop("bn1.weight")
        )
        with pytest.raises(CheckpointError, match=r"w\.pth does not fit res_18(.|\n)*missing: bn1\.weight \(3,\)"):
            load(path)


class TestModel:
    @pytest.mark.parametrize("form", ["heads", "tensorrt-pro", "detections"])
    @pytest.mark.parametrize("dims", [DIMS, RANGES])
    def test_the_patched_module_returns_what_the_reference_defines(
        self, weights: Path, form: str, dims: tuple[Dim, ...]
    ) -> None:
        model = load(weights, form, dims=dims)
        patches = list(convkit_export_patches("centernet", model))
        images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = model.reference(model.module, {"images": images})
            with patched(model.module, patches, dict(model.spec.expect)):
                found = model.module(images)
        assert list(expected) == [output.name for output in model.spec.outputs]
        for name, value in zip(expected, found, strict=True):
            torch.testing.assert_close(value, expected[name], rtol=2.5e-7 if form == "detections" else 0, atol=0)

    def test_is_ready_to_export(self, weights: Path) -> None:
        module = load(weights).module
        assert not module.training
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}

    def test_the_patch_is_for_this_adapter_only(self, weights: Path) -> None:
        assert list(convkit_export_patches("another", load(weights))) == []

    def test_an_image_goes_through(self, weights: Path) -> None:
        """Preprocess, network and decode come from the specification alone."""
        model = load(weights)
        spec = json.loads(json.dumps({"preprocess": model.spec.preprocess, "decode": model.spec.decode}))
        prepare, decode = convkit_preprocess(spec["preprocess"]), convkit_decode(spec["decode"])
        assert prepare is not None
        assert decode is not None
        image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
        prepared = prepare(image)
        assert prepared.tensors["images"].shape == (3, 64, 96)
        with torch.no_grad():
            outputs = model.reference(model.module, {"images": torch.from_numpy(prepared.tensors["images"][None])})
        (result,) = decode({name: value.numpy() for name, value in outputs.items()}, [prepared.meta])
        assert 0 < len(result.to_json()["detections"]) <= 100

    def test_keep_res_takes_its_size_from_the_image(self, weights: Path) -> None:
        spec = load(weights, dims=RANGES, options={"resize": "keep_res"}).spec
        prepare = convkit_preprocess(spec.preprocess)
        assert prepare is not None
        assert prepare(np.zeros((100, 130, 3), np.uint8)).tensors["images"].shape == (3, 128, 160)

    def test_foreign_specifications_are_left_to_others(self) -> None:
        assert convkit_preprocess({"kind": "other"}) is None
        assert convkit_decode({"kind": "other"}) is None
