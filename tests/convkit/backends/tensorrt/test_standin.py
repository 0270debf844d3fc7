"""The stand-in of TensorRT's plugin registry: a right plugin passes and faulty ones do not, with genuine bindings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from support import tensorrt_bindings
from support.tensorrt_bindings import VERSIONS, Unavailable
from support.tensorrt_drive import Input, Job, drive_all, read_ptx
from support.tensorrt_geometry import BASE, BLOCKS, NAME, PLAIN, SPACE, UNEVEN, Geometry, differences
from support.tensorrt_mutants import LISTED, OWN, Mutant, examine

pytestmark = pytest.mark.slow
RIGHT = BASE.read_text(encoding="utf-8")


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A version of the bindings; skips where it, or the stand-in, cannot be had."""
    try:
        tensorrt_bindings.search_path(request.param)
    except Unavailable as reason:
        pytest.skip(str(reason))
    return str(request.param)


GEOMETRIES = {
    "plain": PLAIN,
    "uneven": UNEVEN,
    "float32": Geometry(dtype="FLOAT"),
    "fixed": Geometry(sizes=((2, 96, 128),), variable=False),
    "one pixel": Geometry(sizes=((1, 1, 1),), variable=False),
    "stride 3": Geometry(stride=3, padding=0, sizes=((5, 33, 47), (8, 256, 9))),
}


def test_the_right_plugin_passes_and_answers_as_defined(version):
    answers = drive_all(version, [geometry.job(RIGHT) for geometry in GEOMETRIES.values()])
    for (name, geometry), answer in zip(GEOMETRIES.items(), answers, strict=True):
        assert answer["problems"] == [], (name, answer["log"])
        assert list(differences(geometry, answer)) == [], name
    plain = answers[0]
    assert plain["version"] == version
    assert plain["core"] == [NAME, "1", SPACE]
    assert (plain["timing_cache_id"], plain["metadata"]) == ("", None)
    assert plain["fields"] == [[name, 5] for name in ("stride", "padding", "dilation", "groups")]
    assert [(set(entry["types"]), entry["matches"]) for entry in plain["combinations"]] == [
        ({"FLOAT"}, False), ({"HALF"}, True),
    ]  # fmt: skip
    assert plain["outputs"][0]["shapes"][0] == [2, 32, 96, 128]
    first, second = plain["variants"]
    assert first["launches"][0] == [96, 32, 2, 128, 1, 1, 4096]
    assert second["launches"][0] == [48, 32, 2, 256, 1, 1, 4096]
    assert first["extras"][0] == second["extras"][0] == [64, 96, 128, 32, 96, 128, 1, 1, 1, 1]
    for entry in plain["variants"]:
        assert b".entry " + entry["kernel"].encode() in base64.b64decode(entry["code_base64"])
        assert entry["ptx"]["parameters"] == ["u64"] * 5 + ["u32"] * 10 + ["u64"]
    assert first["extra"][1] == "i0.d2"
    assert answers[3]["variants"][0]["launch"][2] == "2"


def score(version: str, mutants: tuple[Mutant, ...], title: str) -> None:
    found = examine(version, mutants)
    expected = [mutant for mutant in mutants if version not in mutant.accepted]
    rejected = [mutant for mutant, reason in zip(mutants, found, strict=True) if reason]
    print(f"TensorRT {version}: {len(rejected)} of {len(mutants)} {title} rejected")
    assert [mutant.title for mutant in rejected] == [mutant.title for mutant in expected]
    for mutant, reason in zip(mutants, found, strict=True):
        assert version in mutant.accepted or re.search(mutant.reason, reason), (mutant.title, reason)


def test_listed_faults_are_rejected(version):
    assert len(LISTED) == 23
    score(version, LISTED, "faults of users")


def test_more_faults_are_rejected(version):
    assert len(OWN) >= 6
    score(version, OWN, "further faults")


def test_a_registry_of_another_major_version_is_noticed():
    """The stand-in depends on the order of methods: with that of 10 under the name of 11, the right plugin fails."""
    try:
        (answer,) = drive_all(VERSIONS[-1], [PLAIN.job(RIGHT)], registry=10)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert answer["problems"]
    assert "variants" not in answer


REGISTRY = """
import json, tensorrt as trt, tensorrt.plugin as trtp
registry = trt.get_plugin_registry()
exec(compile(open({base!r}).read(), "base", "exec", dont_inherit=True), {{"__name__": "plugin_under_test"}})
creator = registry.get_creator("DCNv2", "1", "convkit_test")
answers = {{
    "found": creator is not None, "same": trt.get_builder_plugin_registry(trt.EngineCapability.STANDARD) is not None,
    "all": [each.name for each in registry.all_creators],
    "recursive": [each.name for each in registry.all_creators_recursive],
    "again": registry.register_creator(creator, "convkit_test"), "elsewhere": registry.get_creator("DCNv2", "1", "x"),
    "parents": registry.parent_search_enabled, "recorder": registry.error_recorder,
    "library": registry.load_library("nothing.so"),
    "gone": registry.deregister_creator(creator), "gone again": registry.deregister_creator(creator),
    "after": registry.get_creator("DCNv2", "1", "convkit_test"),
}}
registry.parent_search_enabled = False
answers["changed"] = registry.parent_search_enabled
print(json.dumps(answers))
"""


def test_registry(version):
    printed = tensorrt_bindings.run(version, REGISTRY.format(base=str(BASE)))
    assert json.loads(printed.splitlines()[-1]) == {
        "found": True, "same": True, "all": [NAME], "recursive": [NAME], "again": False, "elsewhere": None,
        "parents": True, "recorder": None, "library": None, "gone": True, "gone again": False, "after": None,
        "changed": False,
    }  # fmt: skip


ARITHMETIC = """
import tensorrt.plugin as trtp
import numpy as np

@trtp.register("convkit_test::Sums")
def describe(x: trtp.TensorDesc) -> trtp.TensorDesc:
    return x.like()

@trtp.aot_impl("convkit_test::Sums")
def kernel(x: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc], tactic: int) -> tuple[
    str, str, trtp.KernelLaunchParams, trtp.SymIntExprs
]:
    a, b = x.shape_expr[0], x.shape_expr[1] - 10
    values = [a + b, a - b, a * b, a // b, trtp.cdiv(a, b), trtp.max(a, b), trtp.min(a, b), a == b, a < b, b // a,
              (b - a) // 3, trtp.cdiv(b - a, 3)]
    extra = trtp.SymIntExprs(len(values))
    for index, value in enumerate(values):
        extra[index] = trtp.SymInt32(value)
    parameters = ", ".join([".param .u64 p"] + [f".param .u32 q{index}" for index in range(len(values))]
                           + [".param .u64 r"])
    code = f".version 8.0\\n.target sm_80\\n.address_size 64\\n.visible .entry f({parameters})\\n{{ ret; }}"
    return "f", code, trtp.KernelLaunchParams(), extra
"""


def test_expressions_are_evaluated_as_in_python(version):
    """Without autotune there is one combination, of the network's types, and tactic 0."""
    pairs = [(7, 2), (1, 1), (12, 22), (5, 15), (3, 7), (20, 9)]
    job = Job(ARITHMETIC, "Sums", SPACE, [Input("INT32", (-1, -1), (1, 1), (4, 4), (99, 99))],
              cases=[[pair] for pair in pairs])  # fmt: skip
    (answer,) = drive_all(version, [job])
    assert answer["problems"] == []
    (variant,) = answer["variants"]
    assert (variant["tactic"], variant["types"], variant["formats"]) == (0, ["INT32"] * 2, ["LINEAR"] * 2)
    for (a, width), extra in zip(pairs, variant["extras"], strict=True):
        b = width - 10
        assert extra == [
            a + b, a - b, a * b, a // b, -(-a // b), max(a, b), min(a, b), int(a == b), int(a < b), b // a,
            (b - a) // 3, -(-(b - a) // 3),
        ]  # fmt: skip


def test_integers_as_attributes_need_an_older_numpy_or_newer_bindings(version):
    """The trap that arrays avoid: on TensorRT 10, NumPy 2.4 refuses to convert arrays of one item."""
    scalar = RIGHT.replace("Ints = npt.NDArray[np.int32]", "Ints = int")
    scalar = re.sub(r"(stride|padding|dilation|groups)\[0\]", r"\1", scalar)
    job = Geometry(sizes=((2, 96, 128),), variable=False).job(scalar)
    (answer,) = drive_all(version, [job])
    if version.startswith("10.") and tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        assert re.search(r"createPlugin failed: TypeError: only 0-dimensional arrays", answer["problems"][0])
    else:
        assert answer["problems"] == []


def node(**changed: Any) -> onnx.NodeProto:
    attributes = {
        "stride": [2], "padding": [3], "dilation": [2], "groups": [2],
        "plugin_namespace": SPACE, "plugin_version": "1", "aot": 1,
    }  # fmt: skip
    kept = {name: value for name, value in {**attributes, **changed}.items() if value is not None}
    return onnx.helper.make_node(NAME, list("xomwb"), ["y"], domain="of.the.node", **kept)


def test_a_node_is_driven_as_the_parser_would(version):
    whole = UNEVEN.job(RIGHT)
    job = Job.of_node("", node(), whole.inputs, cases=whole.cases)
    assert job.fields == UNEVEN.fields()
    assert (job.name, job.namespace) == (NAME, SPACE)
    setup = "import sys\nassert 'support.tensorrt_geometry' in sys.modules\n" + RIGHT
    jobs = [Job.of_node(setup, node(groups=given), whole.inputs, cases=whole.cases) for given in ([2], None)]
    right, without = drive_all(version, jobs, preload=["support.tensorrt_geometry"])
    assert right["problems"] == []
    assert list(differences(UNEVEN, right)) == []
    assert "the node has no attribute 'groups'" in without["problems"]


def test_nodes_that_the_parser_would_read_otherwise_are_refused():
    for changed in ({"aot": 0}, {"aot": None}, {"plugin_version": "2"}):
        with pytest.raises(ValueError, match="both have to be 1"):
            Job.of_node("", node(**changed), [])
    with pytest.raises(ValueError, match="no field of the attribute 'table'"):
        Job.of_node("", node(table=onnx.numpy_helper.from_array(np.zeros(2))), [])
    other = Job.of_node("", node(plugin_namespace=None, kind="half", scale=0.5, groups=2**32 + 5), [])
    assert other.namespace == "of.the.node"
    assert other.fields["kind"] == "half\0"
    assert other.fields["scale"].dtype == np.float32
    assert other.fields["groups"].tolist() == [5]


def test_what_is_missing_at_the_node_is_said(version):
    (answer,) = drive_all(version, [PLAIN.job(RIGHT, fields={"stride": np.array([1], np.int32), "size": np.zeros(1)})])
    assert "the creator names no attribute 'size'" in answer["problems"]
    assert "the node has no attribute 'padding'" in answer["problems"]


def test_a_plugin_that_takes_too_long_or_exits_is_reported(version):
    """The alarm is that of a job that takes too long; the next job is not affected."""
    late = "import signal\nsignal.raise_signal(signal.SIGALRM)\n"
    jobs = [PLAIN.job(setup) for setup in (late, "import os\nos._exit(3)", "raise SystemExit", "1 +", RIGHT)]
    problems = [answer["problems"] for answer in drive_all(version, jobs)]
    assert problems[0] == ["the process ended by SIGALRM"]
    assert problems[1] == problems[2] == ["the process ended without an answer"]
    assert problems[3][0].startswith("SyntaxError")
    assert problems[4] == []


def test_shapes_outside_the_profile_are_no_cases():
    job = Job("", "", "", [Input("HALF", (-1, 4), (1, 4), (2, 4), (8, 4)), Input("HALF", (3,))])
    assert job.shapes() == [[(1, 4), (3,)], [(2, 4), (3,)], [(8, 4), (3,)]]
    for case in ([(9, 4)], [(2, 5)], [(2,)]):
        with pytest.raises(ValueError, match="is no shape of"):
            Job("", "", "", [Input("HALF", (-1, 4), (1, 4), (2, 4), (8, 4))], cases=[case]).shapes()
    with pytest.raises(ValueError, match="max of an input"):
        Input("HALF", (-1, 4), (1, 4), (2, 4), (8, 5))
    with pytest.raises(ValueError, match="min of an input"):
        Input("HALF", (-1, 4))


PTX = b"""
.version 9.0
.target sm_75
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.shared .align 16 .b8 common[64];
.shared .align 16 .b8 unused[4096];
.visible .entry first(
\t.param .u64 .ptr .align 1 first_param_0,
\t.param .u32 first_param_1
)
.maxntid 64, 2
.minnctapersm 1
{
\t.shared .align 4 .b8 tile[1024];
\t.shared .f32 sums[32];
\t{ mov.u32 %r1, common; }
}
.visible .entry first_of_all
{
\t.shared .b8 own[8];
}
"""


def test_what_ptx_says_of_a_kernel():
    wanted: Mapping[str, Any] = {
        "version": "9.0", "target": "sm_75", "parameters": ["u64", "u32"], "static_shared": 1216, "threads": 128,
    }  # fmt: skip
    assert read_ptx(PTX, "first") == wanted
    assert read_ptx(PTX, "first_of_all") == {
        **wanted, "parameters": [], "static_shared": 8, "threads": None,
    }  # fmt: skip
    assert read_ptx(PTX, "fir")["parameters"] is None
    assert read_ptx(b"\x7fELF", "first")["version"] is None


CUDA = """
__shared__ float common[16];
extern "C" __global__ void __launch_bounds__(96) first(const float *x, const float *w, int n, int m, float *y) {
    extern __shared__ float dynamic[];
    __shared__ float tile[256];
    tile[threadIdx.x] = x[threadIdx.x] + w[n];
    common[threadIdx.x % 16] = m;
    __syncthreads();
    y[threadIdx.x] = tile[255 - threadIdx.x] + common[3] + dynamic[m];
}
extern "C" __global__ void second(float *y) { common[threadIdx.x] = 1; y[0] = common[1]; }
"""


def test_what_genuine_ptx_says_of_a_kernel():
    nvrtc = pytest.importorskip("cupy.cuda").nvrtc
    program = nvrtc.createProgram(CUDA, "x.cu", [], [])
    nvrtc.compileProgram(program, ["--gpu-architecture=compute_80"])
    code = nvrtc.getPTX(program)
    found = read_ptx(code, "first")
    assert found["parameters"] == ["u64", "u64", "u32", "u32", "u64"]
    assert (found["target"], found["threads"], found["static_shared"]) == ("sm_80", 96, 1024 + 64)
    assert read_ptx(code, "second")["static_shared"] == 64
    assert read_ptx(code, "sec")["parameters"] is None


def test_a_second_use_needs_no_network(version, monkeypatch):
    """What was downloaded once is used as it is: a download would fail here."""
    monkeypatch.setattr(tensorrt_bindings.subprocess, "run", None)
    assert tensorrt_bindings._bindings(version).joinpath("tensorrt_bindings").is_dir()
    major = int(version.partition(".")[0])
    assert tensorrt_bindings._standin(major, major).joinpath("tensorrt_libs", f"libnvinfer.so.{major}").is_file()


def test_without_network_or_compiler_the_reason_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(tensorrt_bindings, "_unavailable", {})
    look_up = tensorrt_bindings.search_path.__wrapped__
    with pytest.raises(Unavailable, match=r"the bindings of TensorRT 11\.4\.0\.106 cannot be downloaded: .+") as first:
        look_up(VERSIONS[-1])
    with monkeypatch.context() as again:
        again.setattr(tensorrt_bindings, "_bindings", None)  # it is not asked again
        with pytest.raises(Unavailable, match=re.escape(str(first.value))):
            look_up(VERSIONS[-1])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler"):
        tensorrt_bindings._standin(11, 11)
    assert not list((tmp_path / "convkit-tests").iterdir())


def test_a_folder_that_another_process_made_meanwhile_is_used(tmp_path):
    def make(folder):
        (folder / "mine").touch()
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "theirs").touch()

    assert [path.name for path in tensorrt_bindings._made_once(tmp_path / "it", make).iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_the_definition_of_the_launch():
    assert PLAIN.launch(2, 2, 96, 128) == [48, 32, 2, BLOCKS[2], 1, 1, 4096]
    assert UNEVEN.length(9) == 6
    assert UNEVEN.extra(1, 9, 8) == [64, 9, 8, 32, 6, 5, 2, 3, 2, 2]
