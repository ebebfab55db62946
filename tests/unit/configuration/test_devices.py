"""Disk and network specifications. The disks were compared with libxlu 4.17."""

import pytest

from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.configuration.vif import VifSpecification, parse_rate

VOLUME = DiskSpecification(target="/dev/vg/guest-volume", vdev="hda")
IMAGE = DiskSpecification(target="/root/image.iso", vdev="hdc", writable=False, cdrom=True)


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        ("/dev/vg/guest-volume,,hda", VOLUME),
        ("/dev/vg/guest-volume,raw,hda,rw", VOLUME),
        ("format=raw, vdev=hda, access=rw, target=/dev/vg/guest-volume", VOLUME),
        ("raw:/dev/vg/guest-volume,hda,w", VOLUME),
        ("phy:/dev/vg/guest-volume,hda", VOLUME),
        ("/dev/vg/guest-volume,format=,hda,w,discard,trusted", VOLUME),
        ("/root/image.iso,,hdc,cdrom", IMAGE),
        ("/root/image.iso,,hdc,,cdrom", IMAGE),
        ("/root/image.iso,raw,hdc,devtype=cdrom", IMAGE),
        ("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root/image.iso", IMAGE),
        ("raw:/root/image.iso,hdc:cdrom,ro", IMAGE),
        (",hdc:cdrom,r", DiskSpecification(target="", vdev="hdc", format="empty", writable=False, cdrom=True)),
        ("tap:qcow2:/x,xvda,w", DiskSpecification(target="/x", vdev="xvda", format="qcow2")),
        ("iscsi:iqn,xvda,w", DiskSpecification(target="iqn", vdev="xvda", script="block-iscsi")),
        ("vdev=xvda,target=/a,b =c", DiskSpecification(target="/a,b =c", vdev="xvda")),
        ("/x,,xvda,backendtype=qdisk,untrusted", DiskSpecification(target="/x", vdev="xvda", backendtype="qdisk", trusted=False)),
    ],
)
def test_disks(text: str, disk: DiskSpecification) -> None:
    assert DiskSpecification.parse(text) == disk
    assert DiskSpecification.parse(str(disk)) == disk


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/x,xvda,w", 'unknown format "xvda"'),
        ("/x,,xvda,r,q", "too many positional parameters"),
        ("/x,,xvda,x", 'unknown access "x"'),
        ("/x,raw,xvda,ro,vdev=xvdb", "`vdev' is given twice"),
        ("/x", "no vdev is given"),
        (",,xvda", "no target is given"),
        ("/x,,cow", "is not a virtual device"),
        ("/x,,xvda,colo", "too many|COLO|unknown"),
        ("/x,,xvda,bogus=1", "unknown parameter `bogus'"),
        ("", "no vdev is given"),
    ],
)
def test_bad_disks(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DiskSpecification.parse(text)


@pytest.mark.parametrize(
    ("text", "vif"),
    [
        ("", VifSpecification()),
        ("mac=00:16:3E:74:3d:6,model=e1000,bridge=xenbr0", VifSpecification(mac="00:16:3e:74:3d:06", model="e1000", bridge="xenbr0")),
        ("netdev=eth0, untrusted, mtu=1400", VifSpecification(gatewaydev="eth0", trusted=False, mtu=1400)),
        ("type=vif,rate=1MB/s,devid=3", VifSpecification(type="vif", rate="1MB/s", devid=3)),
        ("untrusted,forward=8080:80", VifSpecification(trusted=False, forwards=("tcp/127.0.0.1/8080:80",))),
        (
            "forward=0.0.0.0/22,forward=udp/5353:53",
            VifSpecification(forwards=("tcp/0.0.0.0/22:22", "udp/127.0.0.1/5353:53")),
        ),
    ],
)
def test_vifs(text: str, vif: VifSpecification) -> None:
    assert VifSpecification.parse(text) == vif
    assert VifSpecification.parse(str(vif)) == vif


@pytest.mark.parametrize("text", ["mac=1", "bogus", "bogus=1", "type=tap", "mtu=x", "mtu=99999", "devid=-1", "rate=fast"])
def test_bad_vifs(text: str) -> None:
    with pytest.raises(ValueError):
        VifSpecification.parse(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("10Mb/s", (62500, 50000)), ("250KB/s", (12500, 50000)), ("1MB/s@20ms", (20000, 20000)), ("1GB/s@10us", (10000, 10))]
)
def test_rates(text: str, rate: tuple[int, int]) -> None:
    assert parse_rate(text) == rate
