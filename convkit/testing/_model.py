"""Checks of the adapter's description, of the loaded model and of its reference."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.conversion import OPSETS
from convkit.model import json_fault, resolve
from convkit.proof import measure, shape_cases
from convkit.testing._fixtures import Fixtures
from convkit.testing._state import module_state, state_changes

if TYPE_CHECKING:
    import torch

    from convkit.model import SourceModel
    from convkit.testing._subject import Subject

__all__ = ["ModelChecks"]

HEAVY = ("torch", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "cv2", "scipy", "PIL", "torchvision", "tensorrt")
_IMPORTS = """
import importlib.metadata, json, sys
point, = (p for p in importlib.metadata.entry_points(group="convkit") if p.name == sys.argv[1])
list(point.load().convkit_adapters())
print(json.dumps([name for name in sys.argv[2:] if name in sys.modules]))
"""


class ModelChecks(Fixtures):
    """What `Adapter` and `Adapter.load` promise."""

    def test_adapter_is_described(self, subject: Subject) -> None:
        """A failure means that the command line cannot show or ask for the adapter as it is declared.

        Correct the class attribute that the message names.
        """
        adapter = subject.adapter
        assert re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", adapter.name), (
            f"name {adapter.name!r}: use lower-case words joined by hyphens"
        )
        assert adapter.summary.strip(), "summary is empty: write what the models are for in one line"
        assert "\n" not in adapter.summary, "summary has several lines: `convkit adapters` shows one"
        assert adapter.forms, "forms is empty: name at least one output form"
        for what, names in (
            ("forms", adapter.forms),
            ("dims", [dim.name for dim in adapter.dims]),
            ("options", [option.name for option in adapter.options]),
        ):
            assert len(set(names)) == len(names), f"{what} names one thing twice: {', '.join(names)}"
        assert adapter.opset in OPSETS, f"opset {adapter.opset}: convkit exports {OPSETS.start} to {OPSETS.stop - 1}"
        for option in adapter.options:
            assert option.help.strip(), f"option {option.name!r} has no help"
            kind = type(option.default)
            assert kind in (int, float, bool, str, tuple), (
                f"option {option.name!r}: a default of type {kind.__name__} cannot be given with --set"
            )
            assert not option.choices or option.default in option.choices, (
                f"option {option.name!r}: its default {option.default!r} is none of its choices"
            )

    def test_entry_module_is_light(self, subject: Subject) -> None:
        """A failure means that every ``convkit`` command waits for imports that only this adapter needs.

        Move these imports from the entry-point module into the functions that use them, and put
        what they are needed for at import time (base classes, decorators) into a module of its own.
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", _IMPORTS, subject.plugin, *HEAVY],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"the entry point {subject.plugin!r} cannot be loaded:\n{done.stderr}"
        heavy = json.loads(done.stdout.splitlines()[-1])
        assert not heavy, f"loading the entry point {subject.plugin!r} imports {', '.join(heavy)}"

    def test_model_is_ready_for_inference(self, source: SourceModel) -> None:
        """A failure means that the reference would differ from what the authors of the model evaluate.

        End ``load`` with ``module.float().eval()``, and read the checkpoint with ``map_location="cpu"``.
        """
        import torch

        training = [path or "the model" for path, module in source.module.named_modules() if module.training]
        assert not training, f"in training mode: {', '.join(training[:5])}"
        tensors = {**dict(source.module.named_parameters()), **dict(source.module.named_buffers())}
        assert tensors, "the module has neither parameters nor buffers"
        for name, tensor in tensors.items():
            assert tensor.device.type == "cpu", f"{name} lies on {tensor.device}"
            assert not tensor.is_floating_point() or tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"

    def test_spec_is_complete(self, subject: Subject, source: SourceModel) -> None:
        """A failure means that an artifact could not say what goes in and what comes out.

        Correct the ``ModelSpec`` that ``load`` returns.
        """
        spec = source.spec
        assert spec.variant.strip(), "variant is empty: name the architecture, artifacts are called after it"
        assert [dim.name for dim in spec.dims] == [dim.name for dim in subject.dims], "dims are not those asked for"
        names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
        assert len(set(names)) == len(names), f"inputs and outputs share a name: {', '.join(names)}"
        for tensor in (*spec.inputs, *spec.outputs):
            np.dtype(tensor.dtype)
            for case in shape_cases(spec.dims):
                shape = resolve(tensor.shape, {"batch": 1, **case.table})
                assert min(shape) >= 1, f"{tensor.name} has the shape {shape} at {case}"
        for what, value in (("preprocess", spec.preprocess), ("decode", spec.decode), ("info", spec.info)):
            fault = json_fault(value, f"ModelSpec.{what}")
            assert fault is None, fault
        for what, value in (("preprocess", spec.preprocess), ("decode", spec.decode)):
            assert not value or value.get("kind"), (
                f"{what} has no 'kind': the hook convkit_{what} could not tell that it is its own"
            )

    def test_preflight_passes(self, subject: Subject, raws: Sequence[Any], form: str) -> None:
        """A failure means that ``convkit convert`` refuses the adapter before any long work.

        It runs two inputs in float32 through preprocess, reader, reference, patched model, decode and what of the GPU
        sides needs no GPU. The error names the object and what to do.
        """
        subject.preflight(form, raws)

    def test_reference_gives_the_declared_outputs(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that ``reference`` and ``ModelSpec.outputs`` disagree on names, shapes or dtypes."""
        outputs = _reference(subject, source, raws, "float32")
        names = [tensor.name for tensor in source.spec.outputs]
        assert sorted(outputs) == sorted(names), f"reference returns {sorted(outputs)}; the spec declares {names}"
        for tensor in source.spec.outputs:
            shape = resolve(tensor.shape, {"batch": 1, **shape_cases(source.spec.dims)[0].table})
            found = outputs[tensor.name]
            assert found.shape == shape, f"{tensor.name} has the shape {found.shape}; the spec declares {shape}"
            assert str(found.dtype) == tensor.dtype, f"{tensor.name} is {found.dtype}; the spec declares {tensor.dtype}"

    def test_reference_is_deterministic(self, subject: Subject, source: SourceModel, raws: Sequence[Any]) -> None:
        """A failure means that nothing can be proved: PyTorch itself gives two results for one input.

        Look for random numbers (dropout outside eval mode), and for state that a forward leaves.
        """
        first, second = (_reference(subject, source, raws, "float32") for _ in range(2))
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value, err_msg=f"two runs differ in {name}")

    def test_reference_runs_in_float64(self, subject: Subject, source: SourceModel, raws: Sequence[Any]) -> None:
        """A failure means that the baseline of every proof is missing.

        Make constants inside the network with the dtype of its tensors (``x.new_tensor``,
        ``torch.zeros_like``), not with ``torch.float32``. Where float64 and float32 differ by more
        than a percent, the network is ill-conditioned or a constant was rounded.
        """
        exact = _reference(subject, source, raws, "float64")
        single = _reference(subject, source, raws, "float32")
        for tensor in source.spec.outputs:
            value = exact[tensor.name]
            assert np.isfinite(value).all(), f"{tensor.name} holds values that are not finite"
            if tensor.dtype == "float32":
                assert value.dtype == np.float64, f"{tensor.name} came back as {value.dtype}"
            if tensor.compare == "values":
                error = measure(value, single[tensor.name]).rel_l2
                assert error < 1e-2, f"{tensor.name}: float32 lies {error:.2%} from float64"

    def test_reference_leaves_the_module_alone(
        self, subject: Subject, source: SourceModel, raws: Sequence[Any]
    ) -> None:
        """A failure means that the reference computes something else once it has run.

        Let ``reference`` neither convert the module nor set attributes of it.
        """
        before, weights = module_state(source.module), _weights(source.module)
        _reference(subject, source, raws, "float32")
        changes = state_changes(before, module_state(source.module))
        assert not changes, f"reference changed {', '.join(changes)}"
        for name, value in _weights(source.module).items():
            np.testing.assert_array_equal(value, weights[name], err_msg=f"reference changed the values of {name}")


def _reference(subject: Subject, source: SourceModel, raws: Sequence[Any], dtype: str) -> dict[str, np.ndarray]:
    """Return what the reference gives for the first shape, in float32 or float64."""
    import copy

    import torch

    module = source.module if dtype == "float32" else copy.deepcopy(source.module).double()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in subject.feed(source, raws).items()}
        feed = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in tensors.items()}
        return {name: value.numpy() for name, value in source.reference(module, feed).items()}


def _weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}
