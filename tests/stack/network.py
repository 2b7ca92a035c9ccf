"""The stack's own network and mount namespace, and the veth pair that leads into it.

The mount namespace is what keeps the host clean: kubelet, containerd and Docker insist on a few fixed folders under
/run, /var/lib and /var/log. There they find folders of our state instead, and every mount that they ever make vanishes
with the last of their processes.
"""

import contextlib
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.stack import cgroups
from tests.stack.errors import StackError
from tests.stack.layout import ADDRESS, CONFIG, HOST_ADDRESS, HOST_LINK, NAMESPACE, NETNS, NODE_ADDRESS, RUN, STATE
from tests.stack.processes import Process, in_netns, recorded, spawn

FIXED_FOLDERS = {
    Path("/var/lib/cni"): STATE / "cni",
    Path("/var/lib/kubelet"): STATE / "kubelet",
    Path("/var/log/containers"): STATE / "container-logs",
}

KERNEL_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""Settings that a kubelet requires in /proc/sys. It reads files with them; the host's own settings are unchanged."""

UNANSWERED = "net/netfilter/nf_conntrack_tcp_timeout_syn_sent"

_MADE = RUN / "made-folders"
_READY = RUN / "namespaces-ready"
_HOLDER = "namespaces"


def create() -> Process:
    """Make the namespaces and start the process that holds them; they are usable once `ready`."""
    cgroups.create()
    NETNS.parent.mkdir(exist_ok=True)
    NETNS.touch()
    _run("unshare", f"--net={NETNS}", "true")
    commands = [
        "ip link set lo up",
        # Pods are on a bridge of the CNI plugin's; the node's address is on one of its own, and so is a default route,
        # which kubelet and kube-proxy insist on. Nothing lies behind it: no packet leaves this namespace.
        "ip link add node0 type bridge",
        f"ip addr add {NODE_ADDRESS}/24 dev node0",
        "ip link set node0 up",
        "ip route add default dev node0",
        "sysctl -qw net.ipv4.ip_forward=1",
        # A connection that begins while kube-proxy writes a Service's first endpoints, between its two tables, leads
        # nowhere; for as long as that is remembered (two minutes, usually) so do others that get the same port.
        f"[ ! -e /proc/sys/{UNANSWERED} ] || echo 5 > /proc/sys/{UNANSWERED}",
        f"ip addr add {ADDRESS}/30 dev host0",
        "ip link set host0 up",
    ]
    _run("ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", "host0", "netns", NAMESPACE)
    _run(*in_netns(["sh", "-ec", "\n".join(commands)]))
    _run("ip", "addr", "add", f"{HOST_ADDRESS}/30", "dev", HOST_LINK)
    _run("ip", "link", "set", HOST_LINK, "up")

    missing = [folder for folder in FIXED_FOLDERS if not folder.exists()]
    _MADE.write_text("".join(f"{folder}\n" for folder in missing))
    for folder in missing:
        folder.mkdir(parents=True)
    # A copy of a foreign namespace mount would keep that namespace alive for as long as we run.
    private = ["awk '$2 ~ \"^/run/netns/\" {print $2}' /proc/mounts | xargs -r umount --lazy"]
    private += ["mount -t tmpfs -o mode=755 tmpfs /run", "mkdir /run/lock"]
    for folder, ours in FIXED_FOLDERS.items():
        ours.mkdir(exist_ok=True)
        private.append(f"mount --bind {shlex.quote(str(ours))} {folder}")
    for name, value in KERNEL_SETTINGS.items():
        setting = CONFIG / "sysctl" / name
        setting.parent.mkdir(parents=True, exist_ok=True)
        setting.write_text(f"{value}\n")
        private.append(f"mount --bind {shlex.quote(str(setting))} /proc/sys/{name}")
    # If AppArmor is on, dockerd would load a profile into the host's kernel, and leave it there.
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    if apparmor.exists():
        disabled = CONFIG / "apparmor"
        disabled.write_text("N\n")
        private.append(f"mount --bind {shlex.quote(str(disabled))} {apparmor}")
    # Shared among the processes in it, so that what the kubelet mounts reaches the containers.
    private += ["mount --make-rshared /", f"touch {shlex.quote(str(_READY))}", "exec sleep infinity"]
    unshared = ["unshare", "--mount", "--ipc", "--propagation", "private", "sh", "-ec", "\n".join(private)]
    return spawn(_HOLDER, in_netns(unshared))


def ready() -> bool:
    """Whether the holder has made its mounts."""
    return _READY.exists()


def inside(argv: Sequence[str | Path]) -> list[str]:
    """The same command, in all of the stack's namespaces: network, mounts and System V shared memory."""
    holder = recorded()[_HOLDER]
    spaces = [f"--net={NETNS}", f"--mount=/proc/{holder.pid}/ns/mnt", f"--ipc=/proc/{holder.pid}/ns/ipc"]
    return ["nsenter", *spaces, *(str(word) for word in argv)]


def link_exists() -> bool:
    """Whether the host's end of the veth pair is there."""
    return (Path("/sys/class/net") / HOST_LINK).exists()


def remove() -> None:
    """Undo `create` as far as it got; the processes inside must have ended."""
    if link_exists():
        subprocess.run(["ip", "link", "delete", HOST_LINK], check=False)
    if NETNS.exists():
        subprocess.run(["umount", "--lazy", NETNS], stderr=subprocess.DEVNULL, check=False)
        NETNS.unlink()
        # Not empty or mounted: another `ip netns` uses it.
        with contextlib.suppress(OSError):
            NETNS.parent.rmdir()
    for line in _MADE.read_text().splitlines() if _MADE.exists() else []:
        with contextlib.suppress(OSError):  # not empty or already removed: it is in use by others
            Path(line).rmdir()


def _run(*argv: str | Path) -> None:
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"`{shlex.join(str(word) for word in argv[:3])} …` failed: {done.stderr.strip()}")
