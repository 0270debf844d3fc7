"""The plugin with the known errors of PyTorch, ONNX, ONNX Runtime, CUDA, TensorRT and their surroundings.

Within a table the special stands before the general: of two remedies that recognise the same line,
the first is shown. Patterns stay within one line of the text.
"""

from __future__ import annotations

from collections.abc import Iterable

from convkit.doctor._remedy import Remedy
from convkit.hookspecs import hookimpl

__all__ = ["REMEDIES"]

CHECKPOINTS = (
    Remedy(
        r"Unsupported global: GLOBAL numpy\S* was not an allowed global",
        "The checkpoint holds numbers that NumPy pickled, such as the best score, beside its tensors.",
        "`convkit convert` reads such files as they are. In own code, list the named classes with"
        " torch.serialization.safe_globals.",
    ),
    Remedy(
        r"Unsupported global: GLOBAL \S+ was not an allowed global|unsupported GLOBAL \S+ whose module",
        "The checkpoint holds Python objects that could run code when they are loaded: options, a whole module, worse.",
        "Get the weights alone. Where you trust the file, load it once with the project that wrote it and"
        " save model.state_dict().",
    ),
    Remedy(
        r"Unsupported operand 60\b|invalid load key, '<'",
        "The file is a web page, saved under the checkpoint's name: its first character is '<'.",
        "Download the file itself; large ones often hide behind a page that asks for confirmation.",
    ),
    Remedy(
        r"Unsupported operand 118\b|invalid load key, 'v'",
        "The file is a Git LFS pointer, a few lines of text in place of the checkpoint.",
        "Run `git lfs pull` in the repository, or download the file from its page.",
    ),
    Remedy(
        r"failed finding central directory|invalid header or archive is corrupted"
        r"|unexpected EOF, expected \d+ more bytes|EOFError: Ran out of input",
        "The checkpoint is cut off or empty.",
        "Compare its size with the original and download or copy it again.",
    ),
    Remedy(
        r"files saved in the legacy \.tar format",
        "The checkpoint was written by PyTorch 0.1, in a format that cannot be read safely.",
        "Load it with PyTorch where you trust it and save its state_dict again.",
    ),
    Remedy(
        r"Attempting to deserialize object on (a )?CUDA device",
        "The checkpoint was saved from a GPU and is loaded where there is none.",
        "`convkit convert` does not need the GPU. In own code: torch.load(file, map_location='cpu').",
    ),
    Remedy(
        r"size mismatch for [\w.]+: copying a param with shape",
        "The network was built for another number of classes, other widths or another depth than the checkpoint's.",
        "Build it from the checkpoint's shapes, as `convkit convert` does; do not load with strict=False, which"
        " leaves random weights behind.",
    ),
    Remedy(
        r"Unexpected key\(s\) in state_dict: \"module\.",
        "The checkpoint was saved from DataParallel, which puts `module.` before every name.",
        "Adapters of convkit take it off. In own code: {key.removeprefix('module.'): value for key, value in items}.",
    ),
    Remedy(
        r"(Missing|Unexpected) key\(s\) in state_dict(?!.*\n?.*\"module\.)",
        "The checkpoint belongs to another architecture than the network, or holds the weights below another key.",
        "Let `convkit convert` read the architecture from the file; its error names the closest one.",
    ),
)

EXPORT = (
    Remedy(
        r"No ONNX function found for <OpOverload",
        "The model calls an operator that PyTorch's exporter has no ONNX translation for.",
        "Give one with the hook convkit_onnx_translations, or replace the module by known operators with"
        " convkit_export_patches.",
    ),
    Remedy(
        r"Could not guard on data-dependent expression|Could not extract specialized integer from data-dependent",
        "The model decides in Python by the value of a tensor, which a graph cannot do.",
        "Patch that module (hook convkit_export_patches): use torch.where, or a size known in advance.",
    ),
    Remedy(
        r"Constraints violated \(|code specialized it to be a constant",
        "A dimension that was asked to vary is fixed by the model's own code.",
        "Fix it: --shape NAME=N. Or patch the code that turns the size into a number.",
    ),
    Remedy(
        r"Couldn't export Python operator \w+|operator with unrecognized namespace \w+",
        "The model calls an operator of its own, which the exporter cannot look into.",
        "Make it a torch.library.custom_op with an ONNX translation (hooks convkit_export_patches and"
        " convkit_onnx_translations).",
    ),
    Remedy(
        r"Exporting the operator '?[\w:]+'? to ONNX opset version \d+ is not supported",
        "The operator cannot be written in the requested opset.",
        "Export with a higher --opset; where no opset has it, translate it with the hook convkit_onnx_translations.",
    ),
    Remedy(
        r"TracerWarning: .*(might cause the trace to be incorrect|as a constant)",
        "Tracing burnt a value of the example input into the graph: it will be wrong for other inputs or sizes.",
        "Export with torch.export, which `convkit convert` does: it follows the sizes, and convkit proves others too.",
    ),
    Remedy(
        r"No module named '?(onnxscript|onnx)'?|Module onnx is not installed",
        "A package that the exporter needs is missing in this environment.",
        "pip install convkit brings it; is the right environment active? `convkit doctor` shows what is installed.",
    ),
)

ONNX = (
    Remedy(
        r"Failed to serialize proto|larger than the 2 GB limit|too large \(>2 ?GiB\)|exceed\w* maximum protobuf size",
        "A file of one piece cannot hold more than 2 GB.",
        "Write the weights beside it: onnx.save(model, file, save_as_external_data=True).",
    ),
    Remedy(
        r"No Op registered for \w+ with domain_version of \d+",
        "The graph holds an operator that its opset does not have: a newer one, or one of a private domain.",
        "Export with a higher --opset. A private operator needs its domain in opset_import, and a runtime that has it.",
    ),
    Remedy(
        r"model ir_version \d+ is higher than the checker's|Unsupported model IR version: \d+, max supported",
        "The file was written by a newer ONNX than this one reads.",
        "pip install --upgrade onnx onnxruntime, or write the file with a lower model.ir_version.",
    ),
    Remedy(
        r"Opset \d+ is under development and support for this is limited",
        "The opset is newer than this ONNX Runtime.",
        "Export with a lower --opset, or update onnxruntime.",
    ),
    Remedy(
        r"No opset import for domain '[^']*'|is not a registered function/op",
        "The graph holds an operator of a private domain that nothing here implements.",
        "Let a rewrite replace it by standard operators (hook convkit_graph_rewrites), or load a library that has it.",
    ),
    Remedy(
        r"must be topologically sorted",
        "A node stands before one that it reads from, which some tools leave behind.",
        "Sort the graph: onnx_graphsurgeon's graph.toposort(). convkit sorts after every rewrite.",
    ),
    Remedy(
        r"bound to different types \(tensor\(\w+\) and tensor\(\w+\)",
        "One node reads tensors of two dtypes, mostly what a float16 conversion left half done.",
        "Convert the whole graph, or put a Cast before the node.",
    ),
    Remedy(
        r"External data path (validation failed|does not exist)|should be stored in .*, but it (doesn't exist|is not)",
        "The weights lie in a file of their own that is not where the model looks for it.",
        "Keep it beside the .onnx file under its original name; an artifact is moved as a whole directory.",
    ),
    Remedy(
        r"Error parsing message|Protobuf parsing failed|INVALID_PROTOBUF",
        "The file is no ONNX model, or is cut off.",
        "`convkit inspect FILE` says what it looks like; copy or export it again.",
    ),
    Remedy(
        r"\[(Shape|Type)InferenceError\]",
        "The graph contradicts itself: a shape or dtype that it declares is not the one its nodes give.",
        "Delete the stale value_info and infer again; `convkit diff BEFORE AFTER` shows which rewrite changed what.",
    ),
)

RUNTIME = (
    Remedy(
        r"Could not find an implementation for \w+\(\d+\) node",
        "ONNX Runtime knows the operator, but has no kernel for this opset or dtype on this device.",
        "Update onnxruntime, use float32 for that node, or export with a lower --opset.",
    ),
    Remedy(
        r"Got invalid dimensions for input|Invalid rank for input",
        "The input has another shape than the graph was exported for.",
        "Preprocess as the manifest says (convkit.load does), or convert again with --shape NAME=MIN:OPT:MAX.",
    ),
    Remedy(
        r"Unexpected input data type\. Actual: \(tensor\(\w+\)\)",
        "The input array has another dtype than the graph's input; NumPy's default is float64.",
        "Convert it: array.astype(np.float32). `convkit inspect FILE` shows what the graph expects.",
    ),
    Remedy(
        r"Required inputs \(.*\) are missing from input feed|Invalid Feed Input Name",
        "The inputs were given under other names than the graph's.",
        "`convkit inspect FILE` shows the names; in code: session.get_inputs()[0].name.",
    ),
    Remedy(
        r"cannot be reshaped to the requested shape|broadcast an axis by a dimension other than 1",
        "A size of the example input is fixed inside the graph, so that other batches or sizes break it.",
        "Convert again with the dimension dynamic (--shape batch=1:4:8); convkit proves every size of the range.",
    ),
    Remedy(
        r"Failed to create CUDAExecutionProvider|providers_cuda\S* with error|loading .*onnxruntime_providers_cuda",
        "ONNX Runtime did not find the CUDA and cuDNN libraries that it was built for, and continued on the CPU.",
        "Install these versions, or `import torch` of the same CUDA version first; else use --device cpu.",
    ),
    Remedy(
        r"Specified provider 'CUDAExecutionProvider' is not in available provider names",
        "This ONNX Runtime is the build for the CPU.",
        "pip uninstall onnxruntime, then pip install onnxruntime-gpu; or use --device cpu.",
    ),
)

CUDA = (
    Remedy(
        r"Torch not compiled with CUDA enabled",
        "This PyTorch is a build for the CPU.",
        "convkit converts and proves on the CPU. For the GPU, install PyTorch for your CUDA version from pytorch.org.",
    ),
    Remedy(
        r"no kernel image is available for execution on the device",
        "The library was not built for this GPU's architecture: the GPU is older, or newer, than the build knows.",
        "Install a build for its compute capability (nvidia-smi --query-gpu=compute_cap --format=csv shows it).",
    ),
    Remedy(
        r"provided PTX was compiled with an unsupported toolchain|CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "The kernel was compiled by a newer CUDA than the driver supports.",
        "Update the driver, or install an NVRTC that is not newer than it (`convkit doctor` shows the driver's CUDA).",
    ),
    Remedy(
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient for CUDA runtime version",
        "The library was built for a newer CUDA than the driver supports.",
        "Update the driver, or install the build for the driver's CUDA version.",
    ),
    Remedy(
        r"Found no NVIDIA driver on your system|no CUDA-capable device is detected"
        r"|CUDA initialization failure with error: (35|100)",
        "No usable NVIDIA GPU or driver is visible to this process.",
        "Check nvidia-smi and CUDA_VISIBLE_DEVICES; a container needs --gpus all. Without a GPU use --device cpu.",
    ),
    Remedy(
        r"Driver/library version mismatch|couldn't communicate with the NVIDIA driver",
        "The driver was updated, or its kernel module is not loaded, and the running one does not fit.",
        "Reboot; if that does not help, reinstall the driver.",
    ),
    Remedy(
        r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED|Failed to allocate memory for requested buffer of size",
        "The memory of the device is used up.",
        "Use a smaller batch or size (--shape batch=1:1:1), or end what else uses the GPU (nvidia-smi shows it).",
    ),
    Remedy(
        r"device-side assert triggered|an illegal memory access was encountered",
        "A kernel read or wrote outside its data; the line that is shown is often not the one that did it.",
        "Run again with CUDA_LAUNCH_BLOCKING=1, or on the CPU, where the error names the place.",
    ),
    Remedy(
        r"lib(cudnn|cublas|cudart|nvrtc|cufft|curand|cusparse)[\w-]*\.so[\w.]*: cannot open shared object file",
        "A CUDA library of the version that a package was built for is not installed, or not where it is looked for.",
        "Install it with the matching nvidia-* package, or put its folder on LD_LIBRARY_PATH.",
    ),
)

TENSORRT = (
    Remedy(
        r"No importer registered for op: \w+|Plugin not found, are the plugin name, version, and namespace correct",
        "TensorRT has no layer for this operator and no plugin of its name is loaded.",
        "`convkit inspect MODEL` shows which plugin serves it; load that before parsing, or let a rewrite replace the"
        " operator by standard ones.",
    ),
    Remedy(
        r"getPluginCreator could not find plugin|Cannot find plugin: \w+|corresponding IPluginCreator not found",
        "The graph or the engine needs a plugin that is not registered in this process.",
        "Call trt.init_libnvinfer_plugins(logger, '') for NVIDIA's own; load the library of another one first.",
    ),
    Remedy(
        r"Magic tag does not match|magicTag(Read)? == \S*MAGIC_TAG",
        "The file is no TensorRT engine, or something was written before it: some tools put a header there.",
        "Give the pure engine (model.plan of an artifact); an .onnx file must be built first.",
    ),
    Remedy(
        r"not compatible with this version of TensorRT, expecting \w+ version|Version tag does not match",
        "The engine was built by another version of TensorRT.",
        "Build it again with the installed version; artifacts keep the .onnx file for that.",
    ),
    Remedy(
        r"generated on an incompatible device, expecting compute",
        "The engine was built on another GPU architecture.",
        "Build it again on this GPU; artifacts keep the .onnx file for that.",
    ),
    Remedy(
        r"factory function returned nullptr",
        "TensorRT could not start: it found no usable GPU or driver, or one of its libraries does not fit the others.",
        "Read the lines above the error, then `convkit doctor`: driver, GPU and TensorRT must all be ok.",
    ),
    Remedy(
        r"BuilderFlag'? has no attribute '(FP16|BF16|INT8|FP8)'|NetworkDefinitionCreationFlag'? has no attribute"
        r"|BuilderFlag::k(FP16|BF16|INT8|FP8)\b",
        "TensorRT 11, like strong typing in 10, takes the precision from the graph; the flags are gone.",
        "Convert the graph itself (float16 tensors, Q/DQ nodes) and leave the flag out. Check the engine: code that"
        " skips the flag in silence builds float32.",
    ),
    Remedy(
        r"ICudaEngine' object has no attribute '(num_bindings|\w*binding\w*|max_batch_size)'",
        "The code uses the interface of bindings, which TensorRT 10 removed.",
        "Use tensors by name: num_io_tensors, get_tensor_name, get_tensor_mode, set_input_shape, execute_async_v3.",
    ),
    Remedy(
        r"no optimization profile has been defined",
        "The graph has dynamic dimensions, and the build was not told their range.",
        "Add a profile with the smallest, usual and largest shape, or convert with fixed sizes (--shape batch=1).",
    ),
    Remedy(
        r"does not satisfy any optimization profile|exceed min ~ max range at index",
        "The input lies outside the range of shapes that the engine was built for.",
        "Keep to the profile (`convkit inspect ARTIFACT` shows it) or build again with a wider --shape.",
    ),
    Remedy(
        r"Could not find any implementation for node",
        "No kernel of TensorRT can run this node within the limits: often too little workspace or GPU memory.",
        "Allow more workspace, free GPU memory, and try another dtype for the node or a newer TensorRT.",
    ),
    Remedy(
        r"Unable to load library: \S*nvinfer_builder_resource|libnv(infer|onnxparser)\w*\.so[\w.]*: cannot open",
        "The libraries of TensorRT are not installed, or not where the loader looks.",
        'pip install "convkit[tensorrt]", or put the folder of the libraries on LD_LIBRARY_PATH.',
    ),
    Remedy(
        r"Target GPU SM \d+ is not supported by this TensorRT release",
        "The GPU is too old, or too new, for this TensorRT.",
        "Install the TensorRT release that supports its compute capability, or run on ONNX Runtime.",
    ),
    Remedy(
        r"generated with INT64 weights, while TensorRT does not natively support INT64",
        "A note of TensorRT before 10: indices and shapes become 32-bit integers, which is harmless.",
        "Nothing, unless a later line says that values were clamped; TensorRT 10 reads 64-bit integers.",
    ),
    Remedy(
        r"only 0-dimensional arrays can be converted to Python scalars",
        "NumPy 2.4 no longer turns arrays of one element into numbers; TensorRT up to 10.16 still does so in plugins.",
        'pip install "numpy<2.4", or TensorRT 11.',
    ),
)

SURROUNDINGS = (
    Remedy(
        r"Descriptors cannot (not )?be created directly",
        "A package was generated for an older protobuf than the installed one.",
        "Update that package; the last lines of the traceback name it.",
    ),
    Remedy(
        r"compiled using NumPy 1\.x cannot be run in|numpy\.\w+ size changed, may indicate binary incompatibility",
        "A compiled package was built for another major version of NumPy.",
        "Update the package that the traceback names.",
    ),
    Remedy(
        r"lib(GL|gthread-2\.0|SM)\.so\.\d+: cannot open shared object file",
        "OpenCV's desktop build needs libraries that a server or container lacks.",
        "pip uninstall opencv-python, then pip install opencv-python-headless.",
    ),
    Remedy(
        r"!_?s(rc|size)\.empty\(\) in function|can't open/read file: check file path/integrity",
        "OpenCV got an empty image: cv2.imread returns nothing, without an error, for a file that it cannot read.",
        "Check the path and open the file in a viewer; `convkit run` names every image that it cannot read.",
    ),
    Remedy(
        r"version `(GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
        "A compiled package needs a newer C or C++ library than this system has.",
        "Use a newer system or container, or an older release of the package.",
    ),
    Remedy(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|Out of memory: Killed process|std::bad_alloc",
        "The memory of the machine is used up.",
        "Close programs, or use a smaller size or batch; `convkit doctor` shows what is free.",
    ),
    Remedy(
        r"No space left on device|Disk quota exceeded",
        "The disk, or your share of it, is full.",
        "Free some space, or give an --output elsewhere. convkit leaves no half-written artifact behind.",
    ),
)

REMEDIES = (*CHECKPOINTS, *EXPORT, *ONNX, *RUNTIME, *TENSORRT, *CUDA, *SURROUNDINGS)


@hookimpl(trylast=True)
def convkit_remedies() -> Iterable[Remedy]:
    """Explain the errors of the tools around convkit; other plugins, which know more of their part, come first."""
    return REMEDIES
