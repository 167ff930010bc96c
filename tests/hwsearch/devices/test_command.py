"""The command device: a local script, a fake adb, a real sshd on localhost, and everything that can go wrong."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwsearch.devices.base import Device, DeviceSpec
from hwsearch.devices.command_device import CommandDevice
from hwsearch.devices.command_templates import TEMPLATES
from hwsearch.errors import DeviceError, UserError
from hwsearch.export.base import Exporter
from hwsearch.export.onnx_exporter import OnnxExporter
from hwsearch.results import Artifact
from tests.contracts.device_contract import DeviceContract

BENCHMARK = Path(__file__).parents[3] / "hwsearch" / "devices" / "onnx_benchmark.py"
SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


def artifact(size: int = 1, *, format: str = "onnx") -> Artifact:
    return Artifact(format, "fp32", {f"model.{format}": b"x" * size}, f"model.{format}")


def script(folder: Path, source: str) -> str:
    """Returns a command that runs a Python program."""
    path = folder / "program.py"
    path.write_text(source)
    return f"{sys.executable} {path}"


def device(*, address: str | None = None, **options: str | float) -> CommandDevice:
    return CommandDevice(DeviceSpec(name="there", runtime="command", address=address, options=options))


class TestLocalCommand(DeviceContract):
    """The shipped benchmark script, called on this machine."""

    runtime = "command"

    @pytest.fixture
    def exporter(self) -> Exporter:
        return OnnxExporter()

    def spec(self, **changes: object) -> DeviceSpec:
        template = TEMPLATES["ssh-onnxruntime"].run
        run = template.replace("ssh {ssh_options} {address} ", "").replace("{folder}/onnx_benchmark.py", str(BENCHMARK))
        own = {"run": run.replace("{remote}", "{files}"), "python": sys.executable}
        return super().spec(**{**changes, "options": {**own, **changes.pop("options", {})}})  # type: ignore[dict-item]

    def make_device(self, spec: DeviceSpec) -> Device:
        return CommandDevice(spec)

    def test_broken_artifact(self, exporter: Exporter) -> None:
        broken = Artifact("onnx", "fp32", {"model.onnx": b"nothing"}, "model.onnx")
        with pytest.raises(DeviceError, match=r"must end with status 0, but ended with 1: .*Protobuf") as caught:
            self.make_device(self.spec()).measure([broken])
        assert "\n" not in str(caught.value)

    def test_environment_comes_from_the_command(self, exporter: Exporter) -> None:
        found = self.make_device(self.spec()).measure([self.artifact(exporter, largest=True)])[0]["latency_ms"]
        assert found.environment["cpu_model"]
        assert found.environment["runtime_version"]


SINGLE = """
import json, os, sys
print("warming up")
print(json.dumps({"latency_ms": os.path.getsize(sys.argv[1]) / 1000, "environment": {"chip": "toy"}}))
"""


def test_one_file_at_a_time(tmp_path: Path) -> None:
    here = device(run=script(tmp_path, SINGLE) + " {file}", rounds=7)
    results = here.measure([artifact(2000), artifact(5000)])
    # Latency is the file's size; the reference's own size cancels because its first value is the card.
    assert [r["latency_ms"].value for r in results] == pytest.approx([2.0, 5.0])
    assert results[0]["latency_ms"].repeats == 7
    assert results[0]["latency_ms"].environment["chip"] == "toy"
    assert results[0]["latency_ms"].std == 0


def test_fake_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    adb = tmp_path / "adb"
    adb.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
        "if '--num_threads=2' in sys.argv:\n"
        "    us = 4000.0 if 'reference' in ' '.join(sys.argv) else 12345.6\n"
        "    print(f'INFO: Inference timings in us: Init: 9, First inference: 8, Inference (avg): {us}')\n"
    )
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    reference = tmp_path / "small.tflite"
    reference.write_bytes(b"reference")
    options = {"template": "android-litert", "folder": "/data/local/tmp", "reference": str(reference)}
    spec = DeviceSpec(name="phone", runtime="command", address="SERIAL1", threads=2, options=options)
    assert CommandDevice.opens(spec) == ("litert",)
    found = CommandDevice(spec).measure([artifact(format="litert")])[0]["latency_ms"]
    assert found.value == pytest.approx(12.3456)
    assert found.environment["reference_ms"] == pytest.approx(4.0)
    lines = log.read_text().splitlines()
    assert lines[0].startswith("-s SERIAL1 push ")
    assert lines[0].endswith("/data/local/tmp/reference.tflite")
    assert lines[-1].startswith("-s SERIAL1 shell rm -f /data/local/tmp/reference.tflite /data/local/tmp/0_")
    assert sum("benchmark_model --graph=" in line for line in lines) == 12  # two files, six rounds


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real server on a free port of localhost that lets this user in by key."""
    if SSHD is None or shutil.which("ssh") is None or shutil.which("scp") is None:
        pytest.skip("needs Debian's openssh-server and openssh-client")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/client.pub\n"
        f"PidFile {tmp_path}/pid\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(100):
            if server.poll() is not None:
                assert server.stderr is not None
                pytest.skip(f"sshd does not start here: {server.stderr.read().strip()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        options = f"-F none -o BatchMode=yes -o ConnectTimeout=10 -o IdentityFile={tmp_path}/client -o Port={port} "
        options += f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path}/known -o LogLevel=ERROR"
        yield {"ssh_options": options, "folder": str(tmp_path / "there")}
    finally:
        server.terminate()
        server.wait()


def test_over_ssh(sshd: dict[str, str], tmp_path: Path) -> None:
    from tests.contracts.nets import conv_supernet, subnet

    options = {"template": "ssh-onnxruntime", "python": sys.executable, **sshd}
    spec = DeviceSpec(
        name="board",
        runtime="command",
        address=f"{getpass.getuser()}@127.0.0.1",
        repeats=6,
        max_seconds=0.3,
        options=options,
    )
    module, example, costs = subnet(conv_supernet(), largest=True)
    made = OnnxExporter().export(module, example, costs=costs)
    found = CommandDevice(spec).measure([made])[0]["latency_ms"]
    assert 0 < found.value < 1000
    assert found.repeats >= 6
    assert found.environment["runtime_version"]
    assert not Path(options["folder"]).exists()


def test_ssh_refused(tmp_path: Path) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("needs openssh-client")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ssh = f"-F none -o BatchMode=yes -o Port={port} -o ConnectTimeout=5"
    there = device(address="127.0.0.1", template="ssh-onnxruntime", ssh_options=ssh, folder=str(tmp_path / "x"))
    with pytest.raises(
        DeviceError, match=r"command prepare \(ssh\) must end with status 0, but ended with 255: .*refused"
    ):
        there.measure([artifact()])


FAILURES = {
    "exit": ("import sys; sys.exit('no such model')", r"must end with status 0, but ended with 1: no such model"),
    "silence": ("", r"must print a JSON object on its last line, but printed nothing"),
    "no_json": ("print('12 ms')", r"must print a JSON object on its last line, but printed 12 ms"),
    "no_object": ("print('[1]')", r"must print a JSON object on its last line, but printed \[1\]"),
    "no_samples": ("print('{}')", r"must print samples_ms with 2 equally long lists of at least 6 .* but printed None"),
    "few": ("print('{\"samples_ms\": [[1], [1]]}')", r"at least 6 positive numbers, but printed \[\[1\], \[1\]\]"),
    "hang": ("import time; time.sleep(60)", r"must end within 0.5 s, but did not"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_one_line(name: str, tmp_path: Path) -> None:
    source, message = FAILURES[name]
    there = device(run=script(tmp_path, source), timeout_s=0.5 if name == "hang" else 60)
    started = time.monotonic()
    with pytest.raises(DeviceError, match=f"device there: .*{message}") as caught:
        there.measure([artifact()])
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_hanging_children_are_ended_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    source = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\nchild.wait()\n"
    )
    with pytest.raises(DeviceError, match="must end within 2 s"):
        device(run=script(tmp_path, source), timeout_s=2).measure([artifact()])
    for _ in range(100):
        if (
            not Path(f"/proc/{pid.read_text()}").exists()
            or "\nState:\tZ" in Path(f"/proc/{pid.read_text()}/status").read_text()
        ):
            return
        time.sleep(0.05)
    pytest.fail("the child of the hanging command lives on")


def test_cannot_be_started() -> None:
    with pytest.raises(DeviceError, match=r"command run \(no-such-program\) cannot be started: No such file"):
        device(run="no-such-program {files}").measure([artifact()])


def test_file_names_are_no_commands(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    there = device(run=script(tmp_path, SINGLE) + " {file}", folder=f"$(touch {trap}); touch {trap}")
    there.measure([artifact(1000)])
    assert not trap.exists()


def test_clean_runs_after_errors_and_may_fail(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(DeviceError, match="command run"):
        device(run="false", clean=f"touch {mark}").measure([artifact()])
    assert mark.exists()
    good = device(run=script(tmp_path, SINGLE) + " {file}", clean="false")
    assert good.measure([artifact(1000)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"option run \(or template\) must be given"),
        ({"template": "telnet"}, "option template must be one of ssh-onnxruntime, .*, but got 'telnet'"),
        ({"run": "x", "timeout_s": "long"}, "option timeout_s must be a positive number, but got 'long'"),
        ({"run": "x", "rounds": 2}, "option rounds must be at least 6, but got 2"),
        ({"run": "x", "pattern": "("}, "option scale or pattern is not usable"),
        ({"run": "x", "pattern": "abc"}, "pattern must have one group"),
        ({"run": "x {colour}"}, r"command run has an unknown placeholder in '\{colour\}'; known are address, batch"),
        ({"run": "x {address}"}, "address must be given, because command run uses it"),
        ({"run": "x", "format": "paper"}, "option reference must name a paper file"),
        ({"run": "x", "rum": "y"}, "has no option 'rum'; did you mean 'run'"),
    ],
)
def test_bad_options(options: dict[str, str | float], message: str) -> None:
    with pytest.raises(UserError, match=f"device there: .*{message}"):
        device(**options)


def test_only_commands_without_address_occupy_this_host() -> None:
    here = DeviceSpec(name="x", runtime="command", options={"run": "x"})
    assert CommandDevice.occupies_host(here)
    assert not CommandDevice.occupies_host(here.model_copy(update={"address": "board"}))


def test_reference_file_is_missing() -> None:
    with pytest.raises(UserError, match="option reference must be a file, but /nowhere is not"):
        device(run="x", reference="/nowhere").measure([artifact()])


def test_artifacts_of_several_files_are_refused() -> None:
    two = Artifact("onnx", "fp32", {"model.onnx": b"", "data.bin": b""}, "model.onnx")
    with pytest.raises(UserError, match="must be given artifacts of one file, but got 2"):
        device(run="x").measure([two])


def test_pattern_that_is_not_found(tmp_path: Path) -> None:
    there = device(run=script(tmp_path, "print('all well')") + " {file}", pattern=r"took (\d+)")
    with pytest.raises(DeviceError, match=r"must match 'took \(\\\\d\+\)', but it printed all well"):
        there.measure([artifact()])
    json_one = device(run=script(tmp_path, f"print({json.dumps(json.dumps({'latency_ms': -1}))})") + " {file}")
    with pytest.raises(DeviceError, match="must hold a positive latency_ms, but it printed"):
        json_one.measure([artifact()])
