"""Where an execution provider comes from: built into the installed ONNX Runtime, or a plug-in beside it.

Rules:
    * One interface: `origin_of` finds the EP, the `Origin` that it returns opens sessions on it.
    * What a wheel claims to have built in comes first; a plug-in is loaded only when it is asked for.
    * ONNX Runtime's own fall-back is switched off: what cannot be had is an exception with its words.
    * Plug-ins are registered once a process, under the name that they call themselves by (QNN names its
      devices after the registration).
    * `flavours` and `ort_version` load nothing: the daemon asks them.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from runtime.errors import ProviderError
from runtime.providers.catalog import CPU, PROVIDERS, PlugIn, Provider
from runtime.providers.explain import explain

__all__ = ["FLAVOURS", "Origin", "claimed", "flavours", "installed_plugins", "is_installed", "origin_of", "ort_version"]

FLAVOURS: Sequence[str] = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-migraphx",
    "onnxruntime-directml",
    "onnxruntime-webgpu",
    "onnxruntime-cann",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)
"""Distributions that bring the package `onnxruntime` itself, and so exclude each other."""

FIRST_PLUGIN: Mapping[str, int] = {"onnxruntime-qnn": 2}
"""Flavours that became plug-ins, and with which major version."""


def flavours() -> tuple[str, ...]:
    """Return flavour and version of every ONNX Runtime installed here; more than one is a broken mix."""
    found = []
    for distribution in FLAVOURS:
        try:
            number = version(distribution)
        except PackageNotFoundError:
            continue
        if int(number.partition(".")[0]) < FIRST_PLUGIN.get(distribution, 1_000_000):
            found.append(f"{distribution} {number}")
    return tuple(found)


def ort_version() -> str:
    """Return flavour and version of the installed ONNX Runtime without loading it; empty if there is none."""
    return next(iter(flavours()), "")


def installed_plugins(providers: Sequence[Provider] = PROVIDERS) -> dict[str, str]:
    """Return, by distribution, the version of each plug-in wheel of *providers* that is installed; loads nothing."""
    plugins = {plugin for provider in providers for plugin in provider.plugins if find_spec(plugin.module)}
    return {plugin.distribution: _version(plugin) for plugin in sorted(plugins, key=lambda p: p.distribution)}


def _version(plugin: PlugIn) -> str:
    try:
        return version(plugin.distribution)
    except PackageNotFoundError:  # the same module from another wheel, such as one for CUDA 12
        return "unknown"


@cache  # before a plug-in is registered: ONNX Runtime lists those too from then on
def claimed() -> tuple[str, ...]:
    """Return the EPs that the installed ONNX Runtime claims to have built in; loads ONNX Runtime."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def is_installed(provider: Provider) -> bool:
    """Whether *provider* is claimed, or a plug-in for it is there; loads ONNX Runtime, but no plug-in."""
    return provider.name in claimed() or any(find_spec(plugin.module) for plugin in provider.plugins)


class Origin(Protocol):
    """Where an EP comes from."""

    @property
    def description(self) -> str:
        """In words: the wheel and its version."""

    def open(self, path: Path, options: Any, folder: Path | None, extra: Mapping[str, str]) -> Any:
        """Return an `onnxruntime.InferenceSession` on the EP.

        Args:
            path: The ONNX file.
            options: `onnxruntime.SessionOptions`, for this session alone.
            folder: For what the EP compiles; ``None``: nothing is kept.
            extra: Provider options besides those of the catalog.

        Raises:
            ProviderError: The EP cannot be had.
            Exception: ONNX Runtime's own, for a file that it cannot load.
        """


def origin_of(provider: Provider) -> Origin:
    """Return where *provider* comes from on this machine; loads ONNX Runtime.

    Raises:
        ProviderError: It is not installed; the text says what to install.
    """
    if provider.name in claimed():
        return _BuiltIn(provider)
    for plugin in provider.plugins:
        if find_spec(plugin.module):
            return _Plugged(provider, plugin)
    have = f"it has {', '.join(claimed())}"
    raise ProviderError(
        f"{provider.name} is not installed: {ort_version() or 'ONNX Runtime'} does not have it ({have}); "
        f"to install it: {provider.install}"
    )


def _filled(options: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """Return *options* with the cache folder in place, which is made; without one, what would name it is left out."""
    if folder is None:
        return {key: value for key, value in options.items() if "{cache}" not in value}
    if any("{cache}" in value for value in options.values()):
        folder.mkdir(parents=True, exist_ok=True)
    return {key: value.replace("{cache}", folder.as_posix()) for key, value in options.items()}


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    """An EP of the installed wheel."""

    provider: Provider

    @property
    def description(self) -> str:
        return f"built into {ort_version() or 'ONNX Runtime'}"

    def open(self, path: Path, options: Any, folder: Path | None, extra: Mapping[str, str]) -> Any:
        import onnxruntime

        provider = self.provider
        wanted: list[Any] = [(provider.name, _filled(provider.options, folder) | dict(extra))]
        fallback_off = options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        if provider.name != CPU.name and not fallback_off:
            wanted.append(CPU.name)  # for the nodes that the EP does not take
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted, enable_fallback=0)
        found = session.get_providers()[0]
        if found != provider.name:  # it wrote the reason to stderr, where the parent of a proof reads it
            raise ProviderError(f"{provider} was asked for, ONNX Runtime fell back to {found}")
        return session


_registered: set[str] = set()  # names that this process has registered plug-ins under


@dataclass(frozen=True, slots=True)
class _Plugged:
    """An EP of a plug-in wheel."""

    provider: Provider
    plugin: PlugIn

    @property
    def description(self) -> str:
        return f"plug-in {self.plugin.distribution} {_version(self.plugin)} on {ort_version() or 'ONNX Runtime'}"

    def open(self, path: Path, options: Any, folder: Path | None, extra: Mapping[str, str]) -> Any:
        import onnxruntime

        self._register()
        devices = [device for device in onnxruntime.get_ep_devices() if self._is_ours(device)]
        if not devices:
            shown = {device.ep_name for device in onnxruntime.get_ep_devices()}
            raise ProviderError(
                f"{self.provider}: {self.description} is registered but shows no {self.provider.device or 'device'} "
                f"on this machine; devices are of {', '.join(sorted(shown))}"
            )
        options.add_provider_for_devices(devices, _filled(self.provider.plugin_options, folder) | dict(extra))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of providers that were given in two ways: they were not
            return onnxruntime.InferenceSession(str(path), options, enable_fallback=0)

    def _is_ours(self, device: Any) -> bool:
        kind = self.provider.device
        return device.ep_name == self.provider.name and (not kind or device.device.type.name == kind)

    def _register(self) -> None:
        """Register the plug-in's library with ONNX Runtime, unless this process has.

        Raises:
            ProviderError: ONNX Runtime is too old for plug-ins, or the library cannot be loaded.
        """
        import onnxruntime

        if not hasattr(onnxruntime, "register_execution_provider_library"):
            raise ProviderError(f"{self.description}: plug-ins need ONNX Runtime 1.23 or newer")
        try:
            module = importlib.import_module(self.plugin.module)
            name = module.get_ep_name()
            if name in _registered:
                return
            onnxruntime.register_execution_provider_library(name, module.get_library_path())
        except Exception as error:  # what a plug-in and ONNX Runtime raise has no base in common
            raise ProviderError(explain(f"{self.description} cannot be loaded: {error}")) from error
        _registered.add(name)
