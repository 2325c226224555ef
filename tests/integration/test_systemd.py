"""
The units of deploy/systemd: what systemd says of them, and what a real systemd makes
of them, as the first process of namespaces of its own.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trustme

from logiss.receiver import FrameDecoder
from logiss.service import drain_seconds
from logiss.settings import Settings
from logiss.workers import SILENT_SECONDS
from tests.front import framed, message, request, stamped
from tests.integration.daemons import BlockingClient, wait_for
from tests.integration.test_daemon import is_listening, unused_port

TREE = Path(__file__).parents[2]
UNITS = TREE / "deploy" / "systemd"
SYSTEMD = "/usr/lib/systemd/systemd"
#: Closing connections to the backend, and the last lines of the log.
LAST_SECONDS = 2.0 + 1.0
_COMMAND_SECONDS = 60
_NAMESPACES = [
    *("--mount", "--pid", "--fork", "--mount-proc"),
    *("--cgroup", "--ipc", "--uts"),
]

#: It serves and connects over the network, looks names up over AF_UNIX, may read the
#: system and /proc/stat for its metrics, and its TLS needs memory that can be written
#: and executed. It reads its variables as a member of a group that has nobody else.
_LEFT_OPEN = {
    "SupplementaryGroups",
    "ProcSubset",
    *("RootDirectory", "PrivateNetwork", "IPAddressDeny"),
    *("RestrictAddressFamilies", "DeviceAllow", "MemoryDenyWriteExecute"),
}

#: What makes a machine of its own of the namespaces. Its network is the one that is
#: there; of the file system nothing can be written to but what is made here, or the
#: systemd in it would set up and clean up the machine that it is on. It knows no units
#: but those of `Machine`.
_INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/folder /run/python /run/tree /run/packages /run/etc /run/work /run/none
mount --bind {folder} /run/folder
mount --bind {python} /run/python
mount --bind {tree} /run/tree
mount --bind {packages} /run/packages
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work none /etc
for place in /dev/shm /home /mnt /opt /root /tmp /var
do mount -t tmpfs -o mode=755 none $place
done
mkdir -m 1777 /var/tmp
mkdir -p /etc/logiss /opt/logiss/bin /opt/python /opt/logiss/tree /opt/logiss/packages
mount --rbind /run/python /opt/python
mount --rbind /run/tree /opt/logiss/tree
mount --rbind /run/packages /opt/logiss/packages
cp /run/folder/logiss /opt/logiss/bin
cp /run/folder/logiss.env /run/folder/ca.pem /etc/logiss
echo 'logiss:x:4999:' >> /etc/group
chown root:4999 /etc/logiss /etc/logiss/logiss.env
chmod 750 /etc/logiss
chmod 640 /etc/logiss/logiss.env
chmod 600 /etc/logiss/ca.pem
umount --recursive --lazy /sys/fs/cgroup || true
mount -t cgroup2 none /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
for place in / /run/python /run/tree /run/packages /opt/python /opt/logiss/tree \\
    /opt/logiss/packages /dev /sys /proc/sys
do mount -o remount,bind,ro $place
done
for place in / /usr /run/tree /run/packages /run/python /dev /sys /proc/sys
do if touch $place/written 2>/dev/null; then echo "$place is not protected"; exit 1; fi
done
# systemd hands credentials over by a mount that has to reach it.
mount --make-rshared /
export container=other SYSTEMD_UNIT_PATH=/run/folder/units
export SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
exec {first} --system --unit=logiss.socket --log-target=console --show-status=0
"""
#: What our units are ordered by; here they are there at once.
_TARGETS = ("sysinit", "basic", "sockets", "network-online", "multi-user", "shutdown")
_COMMAND = """#!/opt/python/bin/python{version} -I
import sys
sys.path[:0] = ["/opt/logiss/tree", "/opt/logiss/packages"]
from logiss.__main__ import main
sys.exit(main())
"""


def program(name: str, package: str = "systemd") -> str:
    found = shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin")
    if found is None:
        reason = f"{name} is missing (Debian: apt-get install {package})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def done(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, by name."""
    lines = (UNITS / name).read_text().splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_verified(tmp_path: Path) -> None:
    """systemd understands each line of both units."""
    analyze = program("systemd-analyze")
    for name in ("logiss.socket", "logiss.service"):
        # It looks for the command, and for the page, which are not installed here.
        text = (UNITS / name).read_text().replace("/opt/logiss/bin/logiss", "/bin/true")
        (tmp_path / name).write_text(text)
    units = [str(path) for path in tmp_path.iterdir()]
    verified = done(analyze, "verify", "--man=no", *units)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_exposure() -> None:
    """The service is as exposed as docs/deploying.rst says, and no more."""
    analyze = program("systemd-analyze")
    said = re.search(
        r"exposure level of (\d+\.\d)", (TREE / "docs/deploying.rst").read_text()
    )
    assert said is not None
    threshold = str(round(float(said[1]) * 10))
    command = [analyze, "security", "--offline=true", str(UNITS / "logiss.service")]
    found = done(*command, f"--threshold={threshold}")
    assert found.returncode == 0, found.stdout
    assert f"exposure level for logiss.service: {said[1]} " in found.stdout
    left = {
        each["name"].split("=")[0]
        for each in json.loads(done(*command, "--json=short").stdout)
        if each["set"] is False
    }
    assert left <= _LEFT_OPEN


def test_filter_has_ioctl() -> None:
    """The ioctl of `acked` is among the system calls that are let through."""
    analyze = program("systemd-analyze")
    allowed, denied = unit("logiss.service")["SystemCallFilter"]
    calls = syscalls(analyze, allowed)
    assert denied.startswith("~")
    for name in denied.removeprefix("~").split():
        calls -= syscalls(analyze, name)
    assert {"ioctl", "prlimit64", "accept4", "epoll_wait"} <= calls
    # Workers are started and watched, and a reload executes the parent anew.
    assert {"clone", "execve", "setpgid", "wait4", "kill", "socketpair"} <= calls
    assert {"memfd_create", "pread64", "rt_sigprocmask", "sched_getaffinity"} <= calls
    assert not {"setuid", "mount", "ptrace"} & calls


def syscalls(analyze: str, name: str) -> set[str]:
    """The system calls of the set `name`, with those of the sets in it."""
    lines = done(analyze, "syscall-filter", name).stdout.splitlines()
    words = {line.strip() for line in lines[1:] if not line.strip().startswith("#")}
    found = {word for word in words if word and not word.startswith("@")}
    for word in words:
        if word.startswith("@"):
            found |= syscalls(analyze, word)
    return found


def test_stop_in_time() -> None:
    """systemd waits longer for a drain than it can take."""
    may_take_seconds = drain_seconds(Settings(deploy="test")) + LAST_SECONDS
    (stop_seconds,) = unit("logiss.service")["TimeoutStopSec"]
    assert float(stop_seconds) > may_take_seconds + 4


def test_told() -> None:
    """systemd waits for what logiss says, and only its main process is heard."""
    service = unit("logiss.service")
    assert (service["Type"], service["NotifyAccess"]) == (["notify"], ["main"])
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert "AF_UNIX" in service["RestrictAddressFamilies"][0].split()
    # A worker that hangs is ended by its parent, one that serves alone by systemd.
    assert float(service["WatchdogSec"][0]) == SILENT_SECONDS
    # What is read at the start only could not be changed by a reload.
    assert "EnvironmentFile" not in service
    assert "ENV_FILE=/etc/logiss/logiss.env" in service["Environment"]


class TLSReceiver:
    """
    Receives octet-counted frames over TLS.

    @ivar frames: in the order of their arrival.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self.frames: list[bytes] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        plain = socket.create_server(("127.0.0.1", 0))
        self._listener = context.wrap_socket(plain, server_side=True)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            threading.Thread(target=self._read, args=[connection], daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        decoder = FrameDecoder()
        with connection, suppress(OSError):
            while octets := connection.recv(1 << 16):
                self.frames += decoder.feed(octets)

    def stop(self) -> None:
        self._listener.close()


class Machine:
    """
    A systemd with our units; see `_INIT`.

    @param groups: a control group to be made for it, and removed.
    """

    def __init__(self, folder: Path, groups: Path, port: int, **variables: str) -> None:
        self._folder = folder
        self._groups = groups
        self.port = port
        self._write(variables)
        script = _INIT.format(
            folder=shlex.quote(str(folder)),
            python=shlex.quote(sys.base_prefix),
            tree=shlex.quote(str(TREE)),
            packages=shlex.quote(str(Path(pytest.__file__).parents[1])),
            first=SYSTEMD,
        )
        groups.mkdir()
        entered = f"echo $$ > {shlex.quote(str(groups))}/cgroup.procs && exec "
        entered += shlex.join(["unshare", *_NAMESPACES, "/bin/sh", "-c", script])
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", entered],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def _write(self, variables: dict[str, str]) -> None:
        units = self._folder / "units"
        shutil.copytree(UNITS, units, ignore=shutil.ignore_patterns("*.example"))
        drop_in(units / "logiss.socket.d", self._socket_settings())
        # Neither PEM nor journal is there by itself.
        drop_in(
            units / "logiss.service.d",
            "[Service]\nLoadCredential=pem:/etc/logiss/ca.pem\n"
            "StateDirectory=logiss\n"
            "StandardOutput=file:/run/folder/out\n"
            "StandardError=file:/run/folder/out\n",
        )
        for name in _TARGETS:
            target = "[Unit]\nDefaultDependencies=no\n"
            (units / f"{name}.target").write_text(target)
        lines = [f"{name}={value}" for name, value in variables.items()]
        (self._folder / "logiss.env").write_text("\n".join(lines) + "\n")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        command = self._folder / "logiss"
        command.write_text(_COMMAND.format(version=version))
        command.chmod(0o755)

    def _socket_settings(self) -> str:
        return f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{self.port}\n"

    @property
    def said(self) -> str:
        """What systemd and logiss have written."""
        files = [self._folder / "log", self._folder / "out"]
        return "".join(f.read_text() for f in files if f.exists())

    def is_listening(self) -> bool:
        assert self._process.poll() is None, self.said
        return is_listening(self.port)

    def systemctl(self, *arguments: str) -> str:
        inside = ["nsenter", "--target", str(self._first_pid()), "--mount", "--pid"]
        command = done(*inside, "--", "systemctl", *arguments)
        assert command.returncode == 0, command.stderr + self.said
        return command.stdout

    def shown(self, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", "logiss").strip()

    def _first_pid(self) -> int:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])

    def processes(self) -> list[Path]:
        """The directories in /proc of all that runs as the service."""
        procs = self._groups / "system.slice" / "logiss.service" / "cgroup.procs"
        return [Path("/proc") / pid for pid in procs.read_text().split()]

    def stop(self) -> None:
        if self._process.poll() is None:
            # Whoever is in the namespace ends with its first process.
            with suppress(ProcessLookupError, IndexError):
                os.kill(self._first_pid(), signal.SIGKILL)
            self._process.wait(_COMMAND_SECONDS)
        self._log.close()
        for group, _, _ in os.walk(self._groups, topdown=False):
            wait_for(partial(removed, Path(group)))


def removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def drop_in(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "test.conf").write_text(text)


def groups_of_ours() -> Path:
    """Where control groups can be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where) / f"logiss-{os.getpid()}"
    pytest.skip("there are no control groups of version 2")


@contextmanager
def machine(folder: Path, **variables: str) -> Iterator[Machine]:
    if not os.environ.get("BOOT_SYSTEMD"):
        # Its walls are of its own making. One that does not hold would let an init, as
        # root, clean up the machine that it is on.
        pytest.skip("set BOOT_SYSTEMD=1 on a machine that may be lost")
    program("systemd-analyze")
    tried = done("unshare", *_NAMESPACES, "mount", "-t", "cgroup2", "none", "/mnt")
    if os.geteuid() != 0 or tried.returncode:
        pytest.skip(f"this takes root and namespaces of its own: {tried.stderr}")
    running = Machine(folder, groups_of_ours(), unused_port(), **variables)
    try:
        wait_for(running.is_listening)
        yield running
    finally:
        running.stop()


def post(client: BlockingClient, text: bytes) -> int:
    client.send(request(framed(message(text))))
    answer = client.answer()
    assert answer is not None
    assert answer.headers["logiss-delivery"] == "acked"
    return answer.code


def test_runs(tmp_path: Path) -> None:
    """
    The first post starts the service, confined as its unit says; it confirms by ioctl
    over TLS, is restarted while a client waits, and ends well.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    receiver = TLSReceiver(authority)
    with machine(
        tmp_path,
        DEPLOY="test",
        TOKEN_MAP="user:a:token",
        FORWARD_DEST=f"127.0.0.1:{receiver.port}",
        PEMFILE="/run/credentials/logiss.service/pem",
        CAPTURE_REFUSED="/var/lib/logiss",
    ) as here:
        client = BlockingClient(here.port)
        assert post(client, b"first") == 200
        wait_for(lambda: receiver.frames)
        assert receiver.frames == [stamped(b"first", "127.0.0.1")]
        check_confined(here)
        check_captured(here, client)
        client.close()

        before = here.shown("MainPID")
        here.systemctl("restart", "logiss.service")
        assert here.shown("MainPID") not in (before, "0")
        client = BlockingClient(here.port)
        assert post(client, b"second") == 200
        client.close()

        here.systemctl("stop", "logiss.socket", "logiss.service")
        shown = [here.shown(name) for name in ("Result", "ExecMainStatus")]
        assert shown == ["success", "0"], here.said
        assert not is_listening(here.port)
    receiver.stop()


def check_confined(here: Machine) -> None:
    """What the kernel says of it is what the unit asks for."""
    (process,) = here.processes()
    status = dict(
        line.split(":\t", 1)
        for line in (process / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split()[0] != "0"
    assert {status["CapEff"], status["CapBnd"]} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    limits = (process / "limits").read_text()
    assert re.search(r"Max open files +16384 +16384 ", limits)
    mounts = (process / "mounts").read_text()
    assert re.search(r"^\S+ / \S+ ro[, ]", mounts, re.MULTILINE)


def check_captured(here: Machine, client: BlockingClient) -> None:
    """Refused bodies are kept where the service may write."""
    client.send(request(b"no frames"))
    answer = client.answer()
    assert answer is not None
    assert answer.code == 400
    (process,) = here.processes()
    kept = process / "root" / "var" / "lib" / "logiss"
    wait_for(lambda: any(b"no frames" in f.read_bytes() for f in kept.iterdir()))
