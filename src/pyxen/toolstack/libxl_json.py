"""A domain's configuration in libxl's JSON: what ``xl list -l`` and ``xl create -n`` print."""

from __future__ import annotations

from typing import Any

from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.configuration.vif import VifSpecification
from pyxen.toolstack.cpu_pools import DEFAULT_POOL


def domain_configuration(config: DomainConfig, uuid: str) -> dict[str, Any]:
    """``libxl_domain_config`` as libxl prints it: without what has libxl's own default. Memory in KiB."""
    result: dict[str, Any] = {"c_info": _creation(config, uuid), "b_info": _build(config)}
    if config.disk:
        result["disks"] = [disk_configuration(disk) for disk in config.disk]
    if config.vif:
        result["nics"] = [interface_configuration(vif) for vif in config.vif]
    for event in ("poweroff", "reboot", "watchdog", "crash", "soft_reset"):
        result[f"on_{event}"] = str(getattr(config, f"on_{event}")).replace("-", "_")
    return result


def _creation(config: DomainConfig, uuid: str) -> dict[str, Any]:
    result = {"type": config.type, "name": config.name, "uuid": uuid, "run_hotplug_scripts": "True"}
    if config.pool != DEFAULT_POOL:
        result["pool_name"] = config.pool
    return result


def disk_configuration(disk: DiskSpecification) -> dict[str, Any]:
    """``libxl_device_disk``."""
    result: dict[str, Any] = {"pdev_path": disk.target, "vdev": disk.vdev, "backend": disk.backendtype or "phy", "format": disk.format}
    if disk.cdrom:
        result |= {"removable": 1, "is_cdrom": 1}
    if disk.writable:
        result["readwrite"] = 1
    result["discard_enable"] = str(disk.discard)
    return result


def interface_configuration(vif: VifSpecification) -> dict[str, Any]:
    """``libxl_device_nic``."""
    result: dict[str, Any] = {"devid": vif.devid} if vif.devid >= 0 else {}
    for name, value in (("mtu", vif.mtu), ("mac", vif.mac), ("ip", vif.ip), ("bridge", vif.bridge), ("ifname", vif.vifname)):
        if value:
            result[name] = value
    if vif.script:
        result["script"] = vif.script
    limit = vif.rate_limit()
    if limit is not None:
        result |= {"rate_bytes_per_interval": limit[0], "rate_interval_usecs": limit[1]}
    return result


def _build(config: DomainConfig) -> dict[str, Any]:
    result: dict[str, Any] = {
        "max_vcpus": config.max_vcpus,
        "avail_vcpus": list(range(config.vcpus)),
        "max_memkb": config.maxmem_mib << 10,
        "target_memkb": config.memory_mib << 10,
        "sched_params": _scheduling(config),
        "event_channels": config.max_event_channels,
        "max_grant_frames": config.max_grant_frames,
        "max_maptrack_frames": config.max_maptrack_frames,
        "kernel": config.kernel,
    }
    if config.command_line:
        result["cmdline"] = config.command_line
    if config.ramdisk:
        result["ramdisk"] = config.ramdisk
    result["type.pv"] = {}
    result["arch_arm"] = {}
    result["arch_x86"] = {}
    return result


def _scheduling(config: DomainConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    if config.cpu_weight != 256:
        parameters["weight"] = config.cpu_weight
    if config.cap:
        parameters["cap"] = config.cap
    return parameters
