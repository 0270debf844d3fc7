"""The plugin of ``tensorrt_standin/base_plugin.py`` with planted faults.

A fault counts as caught where the bindings refuse the plugin, a call fails, the drive reports a problem, or numbers
differ from the definition.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from support.tensorrt_drive import drive_all
from support.tensorrt_geometry import BASE, NAME, PLAIN, SPACE, UNEVEN, differences


@dataclass(frozen=True)
class Mutant:
    """A fault: what it is, a pattern of the reason to reject it, and the texts that others take the place of."""

    title: str
    reason: str
    changes: tuple[tuple[str, str], ...]
    accepted: tuple[str, ...] = ()
    """Versions whose bindings cannot tell."""

    def source(self) -> str:
        """Return the plugin with the fault."""
        text = BASE.read_text(encoding="utf-8")
        for old, new in self.changes:
            if old not in text:
                raise LookupError(f"{self.title}: the plugin has no {old!r}")
            text = text.replace(old, new)
        return text


def fault(title: str, reason: str, *texts: str, accepted: tuple[str, ...] = ()) -> Mutant:
    """Return a fault; ``texts`` are old, new, old, new …"""
    return Mutant(title, reason, tuple(zip(texts[::2], texts[1::2], strict=True)), accepted)


def examine(version: str, mutants: Sequence[Mutant]) -> list[str]:
    """Return why each mutant is rejected, an empty string for one that is not; two geometries are tried."""
    geometries = (PLAIN, UNEVEN)
    answers = iter(drive_all(version, [each.job(one.source()) for one in mutants for each in geometries]))
    found = []
    for _ in mutants:
        reasons = []
        for geometry in geometries:
            answer = next(answers)
            reasons += answer["problems"] or list(differences(geometry, answer))
        found.append(reasons[0] if reasons else "")
    return found


def stage_of(reason: str) -> str:
    """Return where a plugin is rejected: ``registration``, ``call``, ``drive`` (what it found) or ``numbers``."""
    if re.match(r"\w+(Error|Exception): ", reason):
        return "registration"
    if " failed" in reason or reason.startswith("the process ended"):
        return "call"
    numbers = r"the output is|the tactics are|the kernel of tactic|tactic \d+ is "
    return "numbers" if re.match(numbers, reason) else "drive"


_FUTURE = "# The annotations below have to be types"
_ATTRIBUTES = "stride: Ints, padding: Ints, dilation: Ints, groups: Ints,\n    outputs"
_LAST = "groups: Ints,\n) -> trtp.TensorDesc"
_SIGNED = " -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:"
_POSITIONS = 'choice.pos([0, 1, 2, 3, 4, 5], "FP32|FP16", "LINEAR")'
_GRID = "trtp.cdiv(out[2] * out[3], block)"
_BATCH = "launch.grid_z = batch"
_CONVERTED = "int(value) if isinstance(value, np.integer) else value"
_RETURN = "return name, ptx(name), launch, extra"
_OUT = "    out = x.like()\n"

LISTED = (
    fault(
        "annotations are texts",
        "^(TypeError: issubclass|ValueError: TensorDescs args)",
        _FUTURE,
        f"from __future__ import annotations  {_FUTURE}",
    ),
    fault(
        "NumPy integer in the launch configuration",
        "block_x is no symbolic",
        "block_x = block",
        "block_x = np.int32(block)",
    ),
    fault("NumPy integer among the extra arguments", "extra argument 6 is no symbolic", _CONVERTED, "value"),
    fault(
        "aot_impl leaves an attribute out",
        "getLaunchParams failed: TypeError: .* positional arguments",
        _ATTRIBUTES,
        _ATTRIBUTES.replace(" groups: Ints,", ""),
        "groups[0]",
        "1",
    ),
    fault(
        "aot_impl without tactic",
        "^ValueError: Signature of the aot_impl function",
        ", tactic: int,",
        ",",
        "BLOCKS[tactic]",
        "BLOCKS[1]",
    ),
    fault("aot_impl without return annotation", "^ValueError: No return annotation", _SIGNED, ":"),
    fault(
        "attributes in another order",
        "^ValueError: Signature of the aot_impl function",
        _ATTRIBUTES,
        _ATTRIBUTES.replace("stride: Ints, padding: Ints", "padding: Ints, stride: Ints"),
    ),
    fault(
        "attribute that is a list",
        "^(TypeError: issubclass|ValueError: Attribute 'groups')",
        _LAST,
        _LAST.replace("Ints", "list[int]"),
    ),
    fault(
        "attribute with a default",
        "^ValueError: .* default value",
        _LAST,
        _LAST.replace("Ints", "Ints = np.ones(1, np.int32)"),
    ),
    fault("reserved namespace", "^ValueError: .* reserved namespace", f'"{SPACE}::', '"trt::'),
    fault("autotune with a type too few", "FormatCombinations failed: IndexError", "2, 3, 4, 5]", "2, 3, 4]"),
    fault("unknown type in autotune", "FormatCombinations failed: AttributeError: .*FP15", "FP32|FP16", "FP32|FP15"),
    fault("unknown layout in autotune", "FormatCombinations failed: AttributeError: .*NCHW", '"LINEAR"', '"NCHW"'),
    fault(
        "position that is no list",
        "FormatCombinations failed: TypeError: .* not iterable",
        _POSITIONS,
        _POSITIONS.replace(", 5]", "]") + "\n    " + _POSITIONS.replace("[0, 1, 2, 3, 4, 5]", "5"),
    ),
    fault(
        "integer times expression",
        "getLaunchParams failed: TypeError: unsupported operand",
        _GRID,
        _GRID.replace("out[2]", "1 * out[2]"),
    ),
    fault(
        "int() of a dynamic dimension",
        "getLaunchParams failed: TypeError: int\\(\\)",
        _BATCH,
        "launch.grid_z = int(batch)",
    ),
    fault(
        "value of a dynamic dimension",
        "getLaunchParams failed: RuntimeError: Not accessible for non-constant",
        _BATCH,
        "launch.grid_z = batch.constant_value()",
    ),
    fault(
        "if on an expression in the shape function",
        "getOutputDataTypes failed: RuntimeError: .* as boolean",
        _OUT,
        f"{_OUT}    if x.shape_expr[0] == 1:\n        pass\n",
        accepted=("10.13.3.9",),
    ),
    fault("float among the extra arguments", "extra argument 9 is no symbolic", "groups[0]]", "1.0]"),
    fault(
        "extra arguments as a list",
        "getLaunchParams failed: TypeError: Extra args",
        _RETURN,
        _RETURN.replace("extra", "list(extra)"),
    ),
    fault(
        "unknown launch field",
        "getLaunchParams failed: AttributeError: .*cluster_x",
        _BATCH,
        f"{_BATCH}\n    launch.cluster_x = 2",
    ),
    fault(
        "division by an expression that is 0",
        "grid_x.*division by zero",
        _GRID,
        "(out[2] * out[3]) // (height - height)",
    ),
    fault("autotune without the network's types", "no combination has the types", '"FP32|FP16"', '"FP32"'),
)
"""Faults that users of these plugins were seen to make, or that NVIDIA's pages invite."""

OWN = (
    fault("2048 threads in a block", "block_x is 2048", "1: 128", "1: 2048", "= 256)", "= 4096)"),
    fault("64 KiB of shared memory", "shared_mem is 65536", "SHARED = 4096", "SHARED = 65536"),
    fault(
        "shared memory of kernel and launch beyond 48 KiB",
        "51200 bytes of shared memory",
        "\\tret;",
        "\\t.shared .align 16 .b8 tile[47104];\\n\\tret;",
    ),
    fault(
        "pixels along the grid's y axis",
        "grid_y is 65536",
        _GRID,
        "out[1]",
        "grid_y = out[1]",
        "grid_y = out[2] * out[3]",
    ),
    fault("blocks rounded down", "grid_x is 0", _GRID, "(out[2] * out[3]) // block"),
    fault("batch as it was when tracing", "launched with \\[1, 32, 2, 128", _BATCH, "launch.grid_z = 2"),
    fault(
        "extra argument beyond 32 bits",
        "extra argument 0 is 2147483648",
        "values = [channels,",
        "values = [batch * height * width * 4096,",
    ),
    fault(
        "height and width swapped",
        "passed \\[64, 128, 96",
        "channels, height, width, out",
        "channels, width, height, out",
    ),
    fault(
        "extra argument of 16 bits", "getLaunchParams failed: TypeError: Extra args", "trtp.SymInt32(", "trtp.SymInt16("
    ),
    fault("an extra argument too few", "the kernel has parameters", ", groups[0]]", "]"),
    fault("stride in the place of padding", "the output is", "2 * int(padding[0])", "2 * int(stride[0])"),
    fault("dilation ignored", "the output is", " * int(dilation[0])", ""),
    fault(
        "shared memory taken from an unset attribute",
        "shared_mem is no symbolic",
        "SHARED\n    values",
        "None\n    values",
    ),
    fault(
        "no kernel name",
        "getLaunchParams failed: TypeError: Kernel name",
        _RETURN,
        _RETURN.replace("name,", "None,", 1),
    ),
    fault("code under another name", "no kernel of that name", "ptx(name), launch", 'ptx("dcn"), launch'),
    fault("code that is no PTX", "the code is no PTX", "ptx(name), launch", "b'\\x7fELF' * 64, launch"),
    fault(
        "kernel in the order of JIT plugins",
        "the kernel has parameters",
        '["u32"] * extra + ["u64"] * outputs',
        '["u64"] * outputs + ["u32"] * extra',
    ),
    fault(
        "kernel with an argument more", "the kernel has parameters", "ptx(name), launch", "ptx(name, extra=11), launch"
    ),
    fault(
        "kernel for smaller blocks",
        "128 threads, and the kernel takes 64",
        "ptx(name), launch",
        "ptx(name, block=64), launch",
    ),
    fault(
        "output always float32",
        "no combination has the types",
        _OUT,
        f"{_OUT}    import tensorrt\n    out.dtype = tensorrt.float32\n",
    ),
    fault(
        "output of one dimension less",
        "getLaunchParams failed: IndexError",
        "    return out\n",
        "    out.shape_expr = trtp.ShapeExprs.from_tuple(tuple(out.shape_expr)[:3])\n    return out\n",
    ),
    fault(
        "tactic that is negative", "has to be positive", "tactics([1, 2])", "tactics([-1, 2])", "{1: 128", "{-1: 128"
    ),
    fault(
        "autotune that raises",
        "FormatCombinations failed: OSError: no kernels",
        _POSITIONS,
        "raise OSError('no kernels')",
    ),
    fault(
        "registered twice",
        "^ValueError: .*already has a def",
        "@trtp.autotune",
        f'trtp.register("{SPACE}::{NAME}")(describe)\n\n\n@trtp.autotune',
    ),
    fault("another name than the network's", "getCreator failed", f'"{SPACE}::{NAME}"', f'"{SPACE}::DCN"'),
    fault("attribute of another name", "getOutputDataTypes failed: TypeError: .*missing", "groups", "group"),
    fault("crash in aot_impl", "ended by SIGABRT", "    block = BLOCKS[tactic]\n", "    import os\n    os.abort()\n"),
)
"""More of them."""
