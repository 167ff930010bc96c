"""WebAssembly engines in node: ONNX Runtime Web and LiteRT.js, from npm packages; no browser."""

from __future__ import annotations

import shutil
from pathlib import Path

from hwsearch.devices.base import DeviceSpec
from hwsearch.devices.command_device import CommandDevice
from hwsearch.errors import MissingExtraError


class OnnxRuntimeWebDevice(CommandDevice):
    """Measures ONNX files with ONNX Runtime Web; the npm package lies in option `modules` (default: here).

    Args:
        spec: options `modules`, `node`, `timeout_s`.
    """

    settings_hint = ""
    shipped = "onnxruntime-web"
    package = "onnxruntime-web"

    def __init__(self, spec: DeviceSpec) -> None:
        spec.check_options(("modules", "node", "timeout_s"))
        super().__init__(spec)
        node, folder = str(spec.options.get("node", "node")), Path(str(spec.options.get("modules", ".")))
        if shutil.which(node) is None:
            raise MissingExtraError(f"device {spec.name} needs Node.js, but there is no program {node!r}.")
        if not (folder / "node_modules" / self.package).is_dir():
            raise MissingExtraError(
                f"device {spec.name} needs the npm package {self.package}, which is not in {folder / 'node_modules'}: "
                f"npm install --prefix {folder} {self.package}, and option modules: {folder}."
            )


class LiteRtJsDevice(OnnxRuntimeWebDevice):
    """Measures LiteRT files with LiteRT.js: one thread, batch 1. Experimental: the package is made for browsers."""

    settings_hint = ""
    shipped = "litert-js"
    package = "@litertjs/core"
