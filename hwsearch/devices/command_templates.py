"""Shipped templates of the `command` runtime: how to copy files to a device and run a benchmark there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandTemplate:
    """Command lines without a shell: split at blanks, then `{placeholder}` is filled in within each word.

    | placeholder | stands for |
    |---|---|
    | {address} {folder} {python} {node} {modules} | of the spec and its options |
    | {web_benchmark} | the shipped script for WebAssembly engines |
    | {threads} {batch} {clock} {warmup} {repeats} {max_seconds} {target_ci} | of the spec |
    | {ssh_options} | as a word of its own: the option's words |
    | {files}, {names} | as a word of its own: all local paths, all file names on the device |
    | {remote} | as a word of its own: `{folder}/name` of all |
    | {file}, {name} | one file's; the command is then run once per file |

    Args:
        prepare: run once, before anything is copied; empty for nothing.
        copy: run with `{files}` once, with `{file}` for every file.
        run: with `{remote}` or `{names}` it measures all files at once, interleaved itself; with `{file}` or `{name}`
            it measures one file and is called in turn for the reference and every artifact, several times.
        clean: run at the end, also after errors; empty for nothing.
        format: of the artifacts.
        pattern: regular expression whose first group is the time of one call in the output; empty: JSON, see
            `CommandDevice`.
        scale: what one unit of that number is in ms.
    """

    run: str
    prepare: str = ""
    copy: str = ""
    clean: str = ""
    format: str = "onnx"
    pattern: str = ""
    scale: float = 1.0


TEMPLATES: Mapping[str, CommandTemplate] = {
    # ONNX Runtime and Python with NumPy must be on the other host; our own benchmark script is copied there.
    "ssh-onnxruntime": CommandTemplate(
        prepare="ssh {ssh_options} {address} mkdir -p {folder}",
        copy="scp -q {ssh_options} {files} {address}:{folder}/",
        run=(
            "ssh {ssh_options} {address} {python} {folder}/onnx_benchmark.py --threads {threads} --batch {batch} "
            "--clock {clock} --warmup {warmup} --repeats {repeats} --max-seconds {max_seconds} "
            "--target-ci {target_ci} {remote}"
        ),
        clean="ssh {ssh_options} {address} rm -rf {folder}",
    ),
    "onnxruntime-web": CommandTemplate(
        run=(
            "{node} {web_benchmark} onnxruntime-web {modules} {threads} {batch} {warmup} {repeats} {max_seconds} "
            "{files}"
        ),
    ),
    "litert-js": CommandTemplate(
        run="{node} {web_benchmark} litert {modules} {threads} {batch} {warmup} {repeats} {max_seconds} {files}",
        format="litert",
    ),
    # https://ai.google.dev/edge/litert/models/measurement: benchmark_model must lie in {folder} already. It prints
    # "Inference timings in us: Init: ..., First inference: ..., Warmup (avg): ..., Inference (avg): 12345.6".
    "android-litert": CommandTemplate(
        copy="adb -s {address} push {file} {folder}/{name}",
        run=(
            "adb -s {address} shell {folder}/benchmark_model --graph={folder}/{name} --num_threads={threads} "
            "--num_runs={repeats} --warmup_runs={warmup}"
        ),
        clean="adb -s {address} shell rm -f {remote}",
        format="litert",
        pattern=r"Inference \(avg\): ([0-9.eE+]+)",
        scale=0.001,
    ),
}
