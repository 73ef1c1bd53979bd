"""What ONNX Runtime's and the drivers' own words mean, and what to do: one table, pure functions.

The texts were seen with onnxruntime-gpu 1.31 and onnxruntime-openvino 1.24 on machines that lacked
something; the sources of the others stand beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["explain", "last_error"]

MOST = 300  # characters of ONNX Runtime's own text

MEANINGS: Sequence[tuple[re.Pattern[str], str]] = (
    (
        re.compile(r"libcuda\.so\.1: cannot open|nvcuda\.dll", re.IGNORECASE),
        "no NVIDIA driver: install the driver, and in a container give it the GPU",
    ),
    (
        re.compile(r"(libnvinfer[\w.-]*|libnvonnxparser[\w.-]*): cannot open shared object"),
        r"library \1 is missing: install TensorRT, or choose cuda",
    ),
    (
        re.compile(r"(lib(cu\w+|nv\w+)[\w.-]*): cannot open shared object"),
        r"library \1 is missing: pip install 'onnxruntime-gpu[cuda,cudnn]', or install CUDA and cuDNN of that version",
    ),
    (
        re.compile(r"Please install TensorRT libraries"),
        "TensorRT's libraries are missing: install TensorRT, or choose cuda",
    ),
    (  # cudaErrorInsufficientDriver
        re.compile(r"driver version is insufficient|CUDA failure 35\b"),
        "the NVIDIA driver is too old for this wheel's CUDA: update the driver, or take an older onnxruntime-gpu",
    ),
    (  # cudaErrorNoDevice
        re.compile(r"no CUDA-capable device|CUDA failure 100\b"),
        "no device: the driver shows no NVIDIA GPU; in a container give it one",
    ),
    (  # cudaErrorNoKernelImageForDevice; the aarch64 wheel on Orin and Thor
        re.compile(r"no kernel image is available|CUDA failure 209\b"),
        "the wheel has no code for this GPU: take the wheel of its maker (Jetson), or build ONNX Runtime for it",
    ),
    (re.compile(r"Device (\w+) is not available"), r"no device: OpenVINO finds no \1 on this machine"),
    (
        re.compile(r"Could not determine default backend path"),
        "no device: there is no Qualcomm NPU or GPU that it knows",
    ),
)

_LOGGED = re.compile(r"\[E:onnxruntime:[^\]]*\] (.*)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(
    # a file, a line and a function's signature, which may hold a pair of parentheses inside its own
    r"/\S+\.(?:cc|h|cpp):\d+ (?=[^()]*::)[^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? "
    r"|/\S+\.(?:cc|h|cpp):\d+ .*?(?=\[|CUDA failure|Please|Exception)"
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : "
)


def explain(text: str) -> str:
    """Return *text* on one line, shortened, and led by what it means if that is known."""
    plain = " ".join(_PLACE.sub("", _COLOUR.sub("", text)).split())
    short = plain if len(plain) <= MOST else f"{plain[:MOST]}..."
    for pattern, meaning in MEANINGS:
        if found := pattern.search(plain):
            return f"{found.expand(meaning)} ({short})"
    return short


def last_error(stderr: str) -> str:
    """Return the last error that ONNX Runtime logged to *stderr*; empty if there is none."""
    logged = _LOGGED.findall(_COLOUR.sub("", stderr))
    return logged[-1].strip() if logged else ""
