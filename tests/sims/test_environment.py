from __future__ import annotations

import http.server
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

from fl_privacy import _flower
from fl_privacy.corpora import Corpus
from fl_privacy.sims.environment import Finding, check_environment, data, flower, machine, table, versions
from fl_privacy.sims.environment.imports import Gpu, ImportProbe

GB = 10**9


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


# What is printed


def test_the_table_has_problems_last_and_one_summary_line() -> None:
    findings = [
        Finding("disk", "problem", "full", "make room"),
        Finding("python", "ok", "3.11"),
        Finding("threads", "note", "many", "set it"),
        Finding("port", "problem", "taken", "take another"),
    ]
    assert table(findings).splitlines() == [
        "python   ok       3.11",
        "threads  note     many",
        "                  -> set it",
        "disk     problem  full",
        "                  -> make room",
        "port     problem  taken",
        "                  -> take another",
        "",
        "2 problems, 1 note",
    ]
    assert table(findings[1:3]).endswith("\nnothing would fail (1 note)")


# Versions


def test_imports_are_tried_one_by_one_and_a_crash_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noisy_one.py").write_text("import sys; sys.stdout.write('no line end')")
    (tmp_path / "wrong_one.py").write_text("raise OSError('libfoo.so: undefined symbol')")
    (tmp_path / "exit_one.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "crash_one.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with ImportProbe(["noisy_one", "wrong_one", "exit_one", "not_there_at_all", "crash_one", "json"]) as probe:
        got = probe.result()
    assert got.gpu is None
    assert got.faults == {
        "noisy_one": "",
        "wrong_one": "OSError: libfoo.so: undefined symbol",
        "exit_one": "SystemExit: 3",
        "not_there_at_all": "ModuleNotFoundError: No module named 'not_there_at_all'",
        "crash_one": "the interpreter ended with status -6",
    }


def test_an_import_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_one.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ImportProbe(["slow_one"]) as probe:
        got = probe.result(seconds=0.5)
    assert got.faults == {"slow_one": "not through after 0.5 seconds"}
    with ImportProbe(["slow_one"]) as left:
        process = left._process
    assert process.returncode is not None


def test_what_an_extra_asks_for_is_asked_for_too() -> None:
    lines = {
        "mine": ["flower[sim]>=2", "win; sys_platform == 'none'", "dev; extra == 'dev'"],
        "flower": ["grpc>=1", "ray==2.1; extra == 'sim'", "ray==9.9; extra == 'other'"],
    }
    asked = versions.requirements("mine", lines.__getitem__)
    assert [str(r).split(";")[0] for r in asked or []] == ["flower[sim]>=2", "ray==2.1"]

    def nothing(package: str) -> list[str]:
        raise metadata.PackageNotFoundError(package)

    assert versions.requirements("mine", nothing) is None


def test_packages_that_do_not_fit() -> None:
    asked = [Requirement(line) for line in ("torch>=2.6", "ray==2.55.1", "numpy>=1.26", "Jinja2>=3.1", "rich")]
    there = {"torch": "2.1.0", "numpy": "2.0.0", "jinja2": "2.0", "rich": "14.0"}
    findings = {f.name: f for f in versions.check_packages(asked, {"numpy": "ImportError: ABI"}, there.get)}
    assert findings["torch"] == Finding("torch", "problem", "2.1.0; >=2.6 is asked for", "pip install 'torch>=2.6'")
    assert findings["ray"] == Finding("ray", "problem", "not installed", "pip install 'ray==2.55.1'")
    assert (findings["numpy"].state, findings["numpy"].found) == ("problem", "2.0.0, import fails: ImportError: ABI")
    assert findings["jinja2"].state == "problem"
    assert "rich" not in findings
    assert "other packages" not in findings
    good = versions.check_packages(asked[2:], {}, {"numpy": "2.0.0", "jinja2": "3.2", "rich": "14.0"}.get)
    assert [(f.name, f.state) for f in good] == [("numpy", "ok"), ("other packages", "ok")]


def test_a_package_run_from_its_source_still_needs_its_libraries() -> None:
    findings = versions.check_packages(None, {}, {"flwr": "1.41.0"}.get)
    assert findings[0].state == "note"
    assert [f.name for f in findings if f.state == "ok"] == ["flwr"]
    assert {f.name for f in findings if f.state == "problem"} == set(versions.SHOWN) - {"flwr"}


def test_python_out_of_range() -> None:
    assert versions.check_python("3.10.4", ">=3.11").state == "problem"
    assert versions.check_python("3.14.0rc1", ">=3.11").state == "ok"


@pytest.mark.parametrize(
    ("torch", "torchaudio", "gpu", "faults", "state", "todo"),
    [
        ("2.11.0", "2.11.0", Gpu("", "13.0"), {}, None, ""),
        (
            "2.11.0+cpu",
            "2.11.0",
            Gpu(),
            {"torchaudio": "OSError: libcudart.so"},
            "problem",
            "from one package index: pip install torch==2.11.0",
        ),
        ("2.11.0", "2.10.0", Gpu("", "13.0"), {"torchaudio": "ImportError"}, "problem", "torchaudio==2.10.0"),
        (
            "2.15.0",
            "2.11.0",
            Gpu("", "13.2"),
            {"torchaudio": "RuntimeError"},
            "problem",
            "install torch==2.11.0 torchau",
        ),
        ("2.11.0", "2.9.1", Gpu("", "13.0"), {}, "note", "torchaudio==2.9.1"),
        ("2.11.0", "2.11.0", None, {"torch": "OSError", "torchaudio": "OSError"}, None, ""),  # torch's own row says it
        ("2.11.0", None, Gpu(), {}, None, ""),
    ],
)
def test_torch_and_torchaudio_are_a_pair(torch, torchaudio, gpu, faults, state, todo) -> None:
    findings = versions.check_torch_pair(torch, torchaudio, gpu, faults)
    assert [f.state for f in findings] == ([state] if state else [])
    assert all(todo in f.todo for f in findings)


def test_flower_of_another_release_and_flower_without_its_inner_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _flower.faults() == []
    assert only(versions.check_flower("1.41.3", [])).state == "ok"
    assert only(versions.check_flower("1.52.0", [])).state == "note"

    class Renamed:
        _task_id = _run_id = _node_id = None

    with monkeypatch.context() as patch:
        patch.setattr(_flower, "make_record", lambda kind, items: kind())  # as where records keep their items elsewhere
        assert _flower.faults() == ["records cannot be copied"]
    monkeypatch.setattr(_flower, "TaskIdentity", Renamed)
    broken = _flower.faults()
    assert broken
    finding = only(versions.check_flower("1.41.0", broken))
    assert finding.state == "problem"
    assert "local engine cannot run" in finding.found


# The machine


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")
    return folder


def test_limits_of_control_groups_version_2(tmp_path: Path) -> None:
    own = write(tmp_path, own="0::/user/job") / "own"
    mount = tmp_path / "cgroup"
    write(mount)
    assert machine.cgroup_limits(mount, own) == machine.Limits()
    write(mount / "user", cpu__max="150000 100000", memory__max=5 * GB, memory__current=4 * GB)
    write(mount / "user", memory__stat=f"anon 1\ninactive_file {GB}")
    write(mount / "user" / "job", cpu__max="max 100000", memory__max="max", memory__current=GB)
    assert machine.cgroup_limits(mount, own) == machine.Limits(1.5, 2 * GB)  # the page cache can be taken back
    write(mount / "user" / "job", cpu__max="50000 100000", memory__max=GB + 7, memory__current=GB)
    assert machine.cgroup_limits(mount, own) == machine.Limits(0.5, 7)


def test_limits_of_control_groups_version_1_in_a_container(tmp_path: Path) -> None:
    """The container sees the host's path, but only its own group, at the mount."""
    own = write(tmp_path, own="4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/") / "own"
    mount = tmp_path / "cgroup"
    write(mount / "cpu", cpu__cfs_quota_us=200000, cpu__cfs_period_us=100000)
    write(mount / "memory", memory__limit_in_bytes=3 * GB, memory__usage_in_bytes=GB)
    assert machine.cgroup_limits(mount, own) == machine.Limits(2.0, 2 * GB)
    write(mount / "cpu", cpu__cfs_quota_us=-1)
    write(mount / "memory", memory__limit_in_bytes=9223372036854771712)
    assert machine.cgroup_limits(mount, own) == machine.Limits()
    assert machine.cgroup_limits(mount, tmp_path / "nowhere") == machine.Limits()


def test_cores_and_threads() -> None:
    assert machine.check_cores(8, None).state == "ok"
    assert machine.check_cores(8, 8.0).state == "ok"
    few = machine.check_cores(8, 1.5)
    assert few.state == "note"
    assert "--processes 1" in few.todo
    assert machine.check_threads({"OMP_NUM_THREADS": "1"}).state == "ok"
    assert machine.check_threads({}).state == "note"
    assert machine.check_threads({"OMP_NUM_THREADS": "8"}).found == "is 8"


@pytest.mark.parametrize(
    ("available", "limit", "state"),
    [
        (16 * GB, None, "ok"),
        (2 * GB, None, "note"),  # enough for the local engine, not for Ray
        (GB // 2, None, "problem"),
        (16 * GB, GB // 2, "problem"),
        (None, 2 * GB, "note"),
        (None, None, "ok"),
    ],
)
def test_memory(available, limit, state) -> None:
    finding = machine.check_memory(available, limit)
    assert finding.state == state
    assert ("control group" in finding.found) == (limit is not None)


def test_memory_that_the_system_shows(tmp_path: Path) -> None:
    write(tmp_path, meminfo="MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB")
    assert machine.available_memory(tmp_path / "meminfo") == 2 * 2**20
    assert machine.available_memory(tmp_path / "nowhere") is None


def test_shared_memory() -> None:
    assert machine.check_shared_memory(None, 16 * GB) == []
    small = only(machine.check_shared_memory(64 * 10**6, 16 * GB))  # a container's default
    assert small.state == "note"
    assert "--shm-size=4.8gb" in small.todo
    assert only(machine.check_shared_memory(8 * GB, 16 * GB)).state == "ok"


def test_folders(tmp_path: Path) -> None:
    good = machine.check_folder("run folder", tmp_path / "a" / "b", 1000, "elsewhere")
    assert good.state == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    bad = machine.check_folder("run folder", tmp_path / "file" / "runs", 1000, "give --out")
    assert (bad.state, bad.todo) == ("problem", "give --out")
    assert str(tmp_path / "file") in bad.found
    full = machine.check_folder("run folder", tmp_path, 2 * GB, "make room", free=GB)
    assert (full.state, full.todo) == ("problem", "make room")
    assert "1.00 GB free" in full.found


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may write anywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert machine.check_folder("cache", tmp_path / "x", 0, "").state == "problem"
    tmp_path.chmod(0o700)


def test_gpu() -> None:
    assert machine.check_gpu(None) == []
    assert "H200" in only(machine.check_gpu(Gpu("H200", "13.0"))).found
    assert only(machine.check_gpu(Gpu("", "13.0"))).state == "ok"


# Data


def test_corpora_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(data.check_corpora(None)).state == "note"
    assert only(data.check_corpora(str(tmp_path / "nowhere"))).state == "problem"
    nothing = only(data.check_corpora(str(tmp_path)))
    assert nothing.state == "note"
    assert "emodb" in nothing.found

    (tmp_path / "emodb" / "wav").mkdir(parents=True)
    for stem in ("03a01Fa", "03a01Nc", "08a01Wa", "08a01La"):
        soundfile.write(tmp_path / "emodb" / "wav" / f"{stem}.wav", np.zeros(1600), 16000)
    (tmp_path / "ravdess").mkdir()
    findings = {f.name: f for f in data.check_corpora(str(tmp_path), seconds=60)}
    assert findings["corpus emodb"].found == "2 speakers, 3 utterances, 1 files left out"
    assert findings["corpus ravdess"].state == "problem"
    assert "Actor_NN" in findings["corpus ravdess"].found
    assert "corpus crema_d" not in findings

    over = threading.Event()
    monkeypatch.setattr(data.Corpus, "load", lambda name, root: over.wait(60) and Corpus(name, root, (), ()))
    late = {f.name: f for f in data.check_corpora(str(tmp_path), seconds=0.05)}
    over.set()
    assert (late["corpus emodb"].state, late["corpus emodb"].todo) == ("note", "fl-privacy corpus emodb")


def test_the_cache_is_measured(tmp_path: Path) -> None:
    assert data.check_cache(tmp_path / "nowhere").found == "empty"
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.npy").write_bytes(bytes(2_000_000))
    (tmp_path / "a" / "y.npy").write_bytes(bytes(500_000))
    assert data.check_cache(tmp_path, seconds=60).found == "2 files, 2.5 MB"
    assert data.check_cache(tmp_path, seconds=-1).found == "empty"  # no time, no claim


# Flower


@contextmanager
def server(status: int) -> Iterator[int]:
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        try:
            yield http_server.server_port
        finally:
            http_server.shutdown()
            thread.join()
    assert asked == ["/health"]


MINE = Path(sys.executable).parent


def check_port(port: object, interpreters: Path = MINE) -> Finding:
    return flower.check_port({flower.PORT_VARIABLE: str(port)}, interpreters)


def test_a_superlink_of_another_environment_would_take_the_run(tmp_path: Path) -> None:
    with server(200) as port:
        finding = check_port(port, tmp_path)
    assert finding.state == "problem"
    assert flower.PORT_VARIABLE in finding.todo
    if sys.platform == "linux":
        assert f"process {os.getpid()}, " in finding.found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process is not known")
def test_a_superlink_of_this_environment_is_worth_a_note() -> None:
    with server(200) as port:
        assert check_port(port).state == "note"


def test_something_else_on_the_port() -> None:
    with server(404) as port:
        finding = check_port(port)
    assert finding.state == "problem"
    assert "no SuperLink" in finding.found
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert check_port(silent.getsockname()[1]).state == "problem"
        port = silent.getsockname()[1]
    assert check_port(port) == Finding("SuperLink's port", "ok", f"{port}, free")
    assert check_port("ninety").state == check_port("0").state == "problem"


def test_the_port_is_flowers() -> None:
    constant = pytest.importorskip("flwr.cli.constant")
    if flower.PORT_VARIABLE not in os.environ:
        assert constant.LOCAL_SUPERLINK_HTTP_API_PORT == flower.DEFAULT_PORT


@pytest.mark.parametrize("name", ["src_layout", "my-app", "9lives", "a", "a" * 32, "a" * 33, "app.one", "Äpp", ""])
def test_names_of_app_folders_are_judged_as_flower_does(name: str) -> None:
    from flwr.supercore.utils import is_valid_name

    assert flower.app_name_fits(name) == is_valid_name(name)[0]


def test_an_app_in_this_folder(tmp_path: Path) -> None:
    app = tmp_path / "my_app"
    app.mkdir()
    assert flower.check_app(app) == []
    (app / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert flower.check_app(app) == []
    (app / "pyproject.toml").write_text("[tool.flwr.app]\npublisher = 'me'\n[tool.flwr.federations]\ndefault = 'x'\n")
    old, name = flower.check_app(app)
    assert (old.state, name.state) == ("note", "problem")
    assert "rewrites" in old.found
    assert "my_app" in name.found
    good = tmp_path / "my-app"
    app.rename(good)
    (good / "pyproject.toml").write_text("[tool.flwr.app]\npublisher = 'me'\n")
    assert only(flower.check_app(good)).state == "ok"
    (good / "pyproject.toml").write_text("not = = toml")
    assert flower.check_app(good) == []


def programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or flower.PROGRAMS:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_programs_on_the_path(tmp_path: Path) -> None:
    mine, other = programs(tmp_path / "mine" / "bin"), programs(tmp_path / "other" / "bin", "flwr")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mine")
    linked = tmp_path / "local-bin"
    linked.mkdir()
    for name in flower.PROGRAMS:
        (linked / name).symlink_to(mine / name)
    for path in (mine, link / "bin", linked):
        assert flower.check_programs(str(path), mine).state == "ok"
    assert flower.check_programs(os.pathsep.join([str(mine), str(other)]), mine).state == "ok"
    for path in (None, "", str(tmp_path)):
        off = flower.check_programs(path, mine)
        assert off.state == "note"
        assert str(mine) in off.todo
    shadowed = flower.check_programs(os.pathsep.join([str(other), str(mine)]), mine)
    assert shadowed.state == "problem"
    assert str(other / "flwr") in shadowed.found
    (mine / "flower-superlink").unlink()
    missing = flower.check_programs(str(mine), mine)
    assert missing.state == "problem"
    assert "flower-superlink" in missing.found


def test_the_package_that_is_imported(tmp_path: Path) -> None:
    (tmp_path / "site" / "fl_privacy").mkdir(parents=True)
    site = tmp_path / "site" / "fl_privacy" / "__init__.py"
    site.write_text("")
    assert flower.check_checkout(tmp_path, site, "0.2", "0.2").state == "ok"
    assert flower.check_checkout(tmp_path, site, "0.2", None).state == "ok"
    assert flower.check_checkout(tmp_path, site, "0.2", "0.1").state == "note"
    (tmp_path / "work" / "fl_privacy").mkdir(parents=True)
    (tmp_path / "work" / "fl_privacy" / "__init__.py").write_text("")
    assert flower.check_checkout(tmp_path / "work", site, "0.2", "0.2").state == "problem"
    assert flower.check_checkout(tmp_path / "site", site, "0.2", "0.2").state == "ok"


def test_variables_that_flower_reads(tmp_path: Path) -> None:
    install = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"
    assert flower.check_installation({install: "1"}).state == "ok"
    assert flower.check_installation({}).state == "note"
    assert "'true'" in flower.check_installation({install: "true"}).found
    off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    assert flower.check_calls_home(off).state == "ok"
    half = flower.check_calls_home({"FLWR_TELEMETRY_ENABLED": "0"})
    assert half.state == "note"
    assert half.todo.endswith("export FLWR_DISABLE_UPDATE_CHECK=1")
    (tmp_path / "file").write_text("")
    assert flower.check_home({"FLWR_HOME": str(tmp_path / "file")}, tmp_path).state == "problem"
    assert flower.check_home({}, tmp_path).found.startswith(str(tmp_path / ".flwr"))
    assert flower.check_ray_address({}).state == flower.check_ray_address({"RAY_ADDRESS": "local"}).state == "ok"
    assert flower.check_ray_address({"RAY_ADDRESS": "10.0.0.1:6379"}).state == "note"


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_PROXY": "http://127.0.0.1:9"},
        {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "localhost"},
        {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.0/8"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost, 127.0.0.1"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": "*"},
    ],
)
def test_a_proxy_is_judged_as_flowers_http_library_does(environ, monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.3)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/health"
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, timeout=0.2)
        try:
            listening.accept()[0].close()
            reached = True
        except TimeoutError:
            reached = False
    assert (only(flower.check_proxy(environ)).state == "ok") == reached
    assert flower.check_proxy({}) == []


# All together


def test_the_whole_check_sees_a_bad_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_app").mkdir()
    (tmp_path / "bad_app" / "pyproject.toml").write_text("[tool.flwr.app]\npublisher = 'me'\n")
    (tmp_path / "file").write_text("")
    other = programs(tmp_path / "other", "flwr")
    monkeypatch.chdir(tmp_path / "bad_app")
    monkeypatch.setenv("FL_PRIVACY_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("PATH", str(other))
    monkeypatch.setenv(flower.PORT_VARIABLE, "none")
    findings = check_environment()
    problems = {f.name for f in findings if f.state == "problem"}
    assert problems >= {
        "FL_PRIVACY_DATA",
        "cache folder",
        "FLWR_HOME",
        "SuperLink's port",
        "Flower's programs",
        "Flower app here",
    }
    # The libraries of this environment are in order: the tests run in it.
    assert not problems & {"python", "torch", "torchaudio", "flwr", "numpy", "scikit-learn", "Flower's inner parts"}
    assert all(f.todo for f in findings if f.state == "problem")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad_app", "file", "flwr", "other", "pyproject.toml"]
