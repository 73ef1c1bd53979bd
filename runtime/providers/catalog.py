"""The execution providers (EPs) that Vedette knows, and which of them a class of machine prefers: data, no code.

Sources: onnxruntime.ai/docs/execution-providers, nvidia.github.io/TensorRT-RTX-EP-ABI, and the wheels
themselves. Options that differ between a wheel with the EP built in and a plug-in wheel stand apart.
``{cache}`` in an option's value becomes the folder for what the EP compiles (see `runtime.proof`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from runtime.hardware import DeviceClass, Part

__all__ = ["ALIASES", "CPU", "LEGACY", "PREFERENCE", "PROVIDERS", "REPLACED", "PlugIn", "Provider"]

TENSORRT_SECONDS: Final = 600.0  # a cold engine build can take ten minutes; the second finds the timing cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugIn:
    """A wheel that brings an EP to a plain `onnxruntime`."""

    distribution: str  # as pip calls it
    module: str  # has `get_ep_name()` and `get_library_path()`


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An execution provider on one kind of device, and how it is built."""

    name: str  # ONNX Runtime's
    device: str = ""  # CPU, GPU or NPU, for an EP that has several; empty: it has one
    part: Part = Part.CPU  # hardware without which there is nothing to try
    options: Mapping[str, str] = field(default_factory=dict)  # of the EP built into the wheel
    plugin_options: Mapping[str, str] = field(default_factory=dict)  # of the plug-in
    graph_options: Mapping[str, str] = field(default_factory=dict)  # that replay a captured graph (CUDA graphs)
    graphs: int = 1  # captured graphs that a session keeps; of one more a replay would take the first one's addresses
    memory: str = ""  # where its tensors live, as `OrtValue` calls it; empty: in the CPU's memory
    plugins: Sequence[PlugIn] = ()  # wheels that bring it, tried in this order
    install: str = ""  # what to install for it, as a person would be told
    legacy: str = ""  # why nothing new should be built on it; empty: it is not legacy
    proof_seconds: float = 120.0  # that building, running and measuring may take

    @property
    def reference(self) -> str:
        """How a proof, a slot and a command name it: ``NAME`` or ``NAME:DEVICE``."""
        return f"{self.name}:{self.device}" if self.device else self.name

    @property
    def compiles(self) -> bool:
        """Whether it keeps what it compiles in a folder of ours."""
        return any("{cache}" in value for value in (*self.options.values(), *self.plugin_options.values()))

    def __str__(self) -> str:
        return self.reference


CPU = Provider(name="CPUExecutionProvider", install="pip install onnxruntime")

CUDA = Provider(
    name="CUDAExecutionProvider",
    part=Part.NVIDIA_GPU,
    graph_options={"enable_cuda_graph": "1"},
    graphs=2,  # any number, in fact: by the run option gpu_graph_id
    memory="cuda",
    install="pip install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime; a Jetson brings its own wheel",
)
TENSORRT = Provider(
    name="TensorrtExecutionProvider",
    part=Part.NVIDIA_GPU,
    options={
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "{cache}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "{cache}",
    },
    graph_options={"trt_cuda_graph_enable": "1"},
    memory="cuda",
    install="pip install 'onnxruntime-gpu[cuda,cudnn]' in place of onnxruntime, and TensorRT's libraries",
    proof_seconds=TENSORRT_SECONDS,
)
TENSORRT_RTX = Provider(
    name="NvTensorRTRTXExecutionProvider",
    part=Part.NVIDIA_GPU,
    plugin_options={"nv_runtime_cache_path": "{cache}"},
    graph_options={"enable_cuda_graph": "1"},
    memory="cuda",
    plugins=(PlugIn(distribution="onnxruntime-ep-nv-tensorrt-rtx-cu13", module="onnxruntime_ep_nv_tensorrt_rtx"),),
    install="pip install onnxruntime-ep-nv-tensorrt-rtx (RTX 30 and newer)",
    proof_seconds=TENSORRT_SECONDS,
)

# The CPU plug-in computes in bfloat16 where the processor has it, the GPU one in float16: 0.2 % off, which a
# proof refuses. ACCURACY has them compute in the precision of the model; it is what the classic wheel does too.
_ACCURATE = '{"%s": {"EXECUTION_MODE_HINT": "ACCURACY", "CACHE_DIR": "{cache}"}}'
_OPENVINO_PLUGINS = (PlugIn(distribution="onnxruntime-ep-openvino", module="onnxruntime_ep_openvino"),)


def _openvino(device: str, part: Part) -> Provider:
    """Return OpenVINO on one *device*: ``AUTO`` is not among them, it takes no node at all on a CPU alone."""
    return Provider(
        name="OpenVINOExecutionProvider",
        device=device,
        part=part,
        options={"device_type": device, "precision": "ACCURACY", "cache_dir": "{cache}"},
        plugin_options={"load_config": _ACCURATE % device},
        plugins=_OPENVINO_PLUGINS,
        install="pip install onnxruntime-ep-openvino (beside onnxruntime), or onnxruntime-openvino in its place",
    )


OPENVINO_GPU = _openvino("GPU", Part.INTEL_GPU)
OPENVINO_NPU = _openvino("NPU", Part.INTEL_NPU)
OPENVINO_CPU = _openvino("CPU", Part.CPU)

QNN = Provider(
    name="QNNExecutionProvider",
    part=Part.QUALCOMM_NPU,
    options={"backend_type": "htp"},
    plugin_options={"backend_type": "htp"},
    plugins=(PlugIn(distribution="onnxruntime-qnn", module="onnxruntime_qnn"),),
    install="pip install onnxruntime-qnn (beside onnxruntime)",
)
COREML = Provider(
    name="CoreMLExecutionProvider",
    part=Part.APPLE_SILICON,
    options={"ModelFormat": "MLProgram", "MLComputeUnits": "ALL", "ModelCacheDirectory": "{cache}"},
    install="pip install onnxruntime (its macOS wheel has it)",
)
MIGRAPHX = Provider(
    name="MIGraphXExecutionProvider",
    part=Part.AMD_GPU,
    options={"migraphx_model_cache_dir": "{cache}"},
    install="pip install onnxruntime-migraphx in place of onnxruntime, and ROCm",
    proof_seconds=TENSORRT_SECONDS,
)
WEBGPU = Provider(
    name="WebGpuExecutionProvider",
    part=Part.GPU,
    plugins=(PlugIn(distribution="onnxruntime-ep-webgpu", module="onnxruntime_ep_webgpu"),),
    install="pip install onnxruntime-ep-webgpu (beside onnxruntime)",
)
XNNPACK = Provider(
    name="XnnpackExecutionProvider", install="a build of ONNX Runtime with --use_xnnpack; no wheel has it"
)
DIRECTML = Provider(
    name="DmlExecutionProvider",
    part=Part.GPU,
    install="pip install onnxruntime-directml in place of onnxruntime",
    legacy="DirectML is only maintained; WebGPU or the maker's own EP takes its place",
)

PROVIDERS: Sequence[Provider] = (
    TENSORRT,
    TENSORRT_RTX,
    CUDA,
    MIGRAPHX,
    QNN,
    COREML,
    OPENVINO_GPU,
    OPENVINO_NPU,
    OPENVINO_CPU,
    WEBGPU,
    DIRECTML,
    XNNPACK,
    CPU,
)
"""All that can run a model here; the last resort last."""

PREFERENCE: Mapping[DeviceClass, Sequence[Provider]] = {
    DeviceClass.JETSON: (TENSORRT, CUDA, CPU),
    DeviceClass.NVIDIA: (TENSORRT, TENSORRT_RTX, CUDA, WEBGPU, CPU),
    DeviceClass.AMD: (MIGRAPHX, WEBGPU, CPU),
    DeviceClass.QUALCOMM: (QNN, CPU),
    DeviceClass.APPLE: (COREML, WEBGPU, CPU),
    DeviceClass.INTEL: (OPENVINO_GPU, OPENVINO_NPU, OPENVINO_CPU, WEBGPU, CPU),
    DeviceClass.WINDOWS: (WEBGPU, DIRECTML, CPU),
    DeviceClass.RASPBERRY_PI: (XNNPACK, CPU),
    DeviceClass.ARM: (XNNPACK, CPU),
    DeviceClass.X86: (OPENVINO_CPU, CPU),
}
"""What to try first on which machine; what lacks its part is left out, what is not installed is said."""

ALIASES: Mapping[str, str] = {
    "cpu": CPU.name,
    "cuda": CUDA.name,
    "tensorrt": TENSORRT.name,
    "openvino": OPENVINO_CPU.name,
    "tensorrt-rtx": TENSORRT_RTX.name,
    "qnn": QNN.name,
    "coreml": COREML.name,
    "migraphx": MIGRAPHX.name,
    "webgpu": WEBGPU.name,
    "directml": DIRECTML.name,
    "xnnpack": XNNPACK.name,
}

REPLACED: Mapping[str, tuple[str, str]] = {
    "rocm": (MIGRAPHX.name, "ONNX Runtime removed the ROCm execution provider in 1.23; MIGraphX takes its place"),
}
"""Old names: what they mean now, and why. In lower case, without ``ExecutionProvider``."""

LEGACY: Mapping[str, str] = {
    DIRECTML.name: DIRECTML.legacy,
    "NnapiExecutionProvider": "Android deprecated NNAPI; QNN, XNNPACK or the CPU takes its place",
    "JsExecutionProvider": "WebGL and JavaScript in the web package are deprecated; WebGPU takes their place",
    "ROCMExecutionProvider": REPLACED["rocm"][1],
}
"""Names that ONNX Runtime still knows or knew, on which nothing new should be built, and why."""
