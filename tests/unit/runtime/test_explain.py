"""What is said to the user of the words of ONNX Runtime and the drivers; the words are theirs."""

from __future__ import annotations

import pytest

from runtime.providers import explain, last_error

LOGGED = (
    "\x1b[0;93m2026-11-22 19:53:16.33 [W:onnxruntime:Default, onnxruntime_pybind_state.cc:1295 Create] Failed to "
    "create CUDAExecutionProvider. Require cuDNN 9.* and CUDA 13.*.\x1b[m\n"
    "\x1b[1;31m2026-11-22 19:53:16.34 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& "
    "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
    "/x/onnxruntime/capi/libonnxruntime_providers_cuda.so with error: {}: cannot open shared object file: No such "
    "file or directory\n\x1b[m"
)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (LOGGED.format("libcublasLt.so.13"), "library libcublasLt.so.13 is missing: pip install 'onnxruntime-gpu[cud"),
        (LOGGED.format("libcudnn.so.9"), "library libcudnn.so.9 is missing: pip install"),
        (LOGGED.format("libnvinfer.so.10"), "library libnvinfer.so.10 is missing: install TensorRT"),
        (LOGGED.format("libcuda.so.1"), "no NVIDIA driver: install the driver"),
        (
            (
                "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<THRW, void, "
                "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*) CUDA failure 35: CUDA driver "
                "version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=c43 ; expr=cudaSetDevice(0);"
            ),
            "the NVIDIA driver is too old for this wheel's CUDA: update the driver",
        ),
        ("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1", "no device: the driver shows no NVIDIA GPU"),
        (
            "CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available for execution on the device",
            "the wheel has no code for this GPU",
        ),
        (
            (
                "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void RegisterTensorRTPlugins() "
                "Please install TensorRT libraries as mentioned in the GPU requirements page, make sure they're in the "
                "PATH or LD_LIBRARY_PATH, and that your GPU is supported."
            ),
            "TensorRT's libraries are missing: install TensorRT, or choose cuda",
        ),
        (
            (
                "/onnxruntime/onnxruntime/core/providers/openvino/openvino_provider_factory.cc:141 std::string "
                "onnxruntime::openvino_ep::ParseDeviceType() [ERROR] [OpenVINO] Device NPU is not available\n"
            ),
            "no device: OpenVINO finds no NPU on this machine",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Could not determine default backend path for device\n",
            "no device: there is no Qualcomm NPU or GPU that it knows",
        ),
    ],
)
def test_known_words_are_led_by_what_they_mean(words: str, meaning: str) -> None:
    said = explain(last_error(words) or words)
    assert said.startswith(meaning)
    assert said.endswith(")")  # the words themselves
    assert "\n" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            (
                "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. "
                "Name:'/Reshape' Status Message: "
                "/onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:91 "
                "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, "
                "onnxruntime::TensorShapeVector&, bool) input_shape_size == requested_shape_size was false. Input "
                "shape:{2,8,4,4}, requested shape:{1,128}"
            ),
            (
                "Non-zero status code returned while running Reshape node. Name:'/Reshape' Status Message: "
                "input_shape_size == requested_shape_size was false. Input shape:{2,8,4,4}, requested shape:{1,128}"
            ),
        ),
        (
            (
                "Load model from m.onnx failed:/onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
                "onnxruntime::Model::Model(onnx::ModelProto&&, const onnxruntime::PathString&, const "
                "onnxruntime::ModelOptions&) Unsupported model IR version: 99, max supported IR version: 14"
            ),
            "Load model from m.onnx failed:Unsupported model IR version: 99, max supported IR version: 14",
        ),
        ("/x/a.cc:1 it happened (twice) here", "/x/a.cc:1 it happened (twice) here"),
    ],
)
def test_the_place_in_its_source_is_left_out(words: str, said: str) -> None:
    assert explain(words) == said


def test_unknown_words_are_kept_on_one_line_and_shortened() -> None:
    assert explain("something\n  else   happened") == "something else happened"
    assert explain("x" * 1000) == "x" * 300 + "..."


def test_the_last_error_counts_and_no_warning() -> None:
    assert last_error("") == ""
    assert last_error("2026 [W:onnxruntime:Default, x.cc:1 f] careful") == ""
    assert last_error("2026 [E:onnxruntime:, a.cc:1 f] first\n2026 [E:onnxruntime:, b.cc:2 g] second\n") == "second"
