"""Which network a vif is attached to: the rule of docs/network.md."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from pyxen.backends.device import DeviceError
from pyxen.backends.helper_program import HelperPrograms
from pyxen.backends.network_attachment import Attachment, VifPort
from pyxen.backends.network_passt import PasstAttachment
from pyxen.backends.network_switch import SwitchAttachment, Switches
from pyxen.backends.network_tap import TapAttachment

_INTERFACES = Path("/sys/class/net")
_NAT, _BRIDGE = "vif-nat", "vif-bridge"


def choose_attachment(port: VifPort, value: Callable[[str], str], helpers: HelperPrograms, switches: Switches) -> Attachment:
    """By the entries ``script``, ``bridge`` and ``forwards`` of the backend's folder. Raises ``DeviceError``."""
    script, bridge = Path(value("script")).name, value("bridge")
    if script not in ("", _NAT, _BRIDGE):
        raise DeviceError(errno.EOPNOTSUPP, f"the script {script} is not supported; use vif-nat, vif-bridge or none")
    if "/" in bridge:
        raise DeviceError(errno.EINVAL, f"{bridge!a} is no name of a bridge")
    if script == _NAT or not bridge:
        if script == _BRIDGE:
            raise DeviceError(errno.EINVAL, "script=vif-bridge needs bridge=NAME")
        return PasstAttachment(port, helpers, _passt_forwards(value("forwards")))
    interface = _INTERFACES / bridge
    if (interface / "bridge").is_dir():
        return TapAttachment(port, bridge)
    if interface.exists():
        raise DeviceError(errno.EINVAL, f"{bridge} is a network interface of this machine, but no bridge; give another name for a switch")
    if script == _BRIDGE:
        remedy = f"make it (ip link add {bridge} type bridge), or leave script out for a switch inside pyxen"
        raise DeviceError(errno.ENODEV, f"this machine has no bridge {bridge}: {remedy}")
    return SwitchAttachment(port, switches, bridge)


def _passt_forwards(entry: str) -> list[str]:
    """ "tcp/127.0.0.1/8080:80 udp/..." as arguments of passt."""
    forwards = [forward.partition("/") for forward in entry.split()]
    arguments = []
    for option, wanted in (("-t", "tcp"), ("-u", "udp")):
        # "none" has to be said: else passt forwards UDP ports of the same numbers as TCP's.
        for rest in [rest for protocol, _, rest in forwards if protocol == wanted] or ["none"]:
            arguments += [option, rest]
    return arguments
