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
        ("/x,,51712", DiskSpecification(target="/x", vdev="51712")),
        (" /x,\traw, 0xca00, ro", DiskSpecification(target="/x", vdev="0xca00", writable=False)),
        ("/x,,d2p3,w,no-discard,direct-io-safe", DiskSpecification(target="/x", vdev="d2p3", discard=False, direct_io_safe=True)),
        (",,xvda,cdrom,target=/a:b,c ", DiskSpecification(target="/a:b,c ", vdev="xvda", writable=False, cdrom=True)),
        ("vdev=xvda,devtype=cdrom", DiskSpecification(target="", vdev="xvda", format="empty", writable=False, cdrom=True)),
        ("/x,qed,sda1,backend=0", DiskSpecification(target="/x", vdev="sda1", format="qed", backend="0")),
        ("file:/x,xvdaa,w", DiskSpecification(target="/x", vdev="xvdaa")),
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
        ("/x,,cow", "is not a virtual disk"),
        ("/x,,xvda,colo", "COLO is not supported"),
        ("/x,,xvda,w,colo-host=a,colo-port=1,colo-export=e", "COLO is not supported"),
        ("/x,,xvda,w,hidden-disk=/y", "COLO is not supported"),
        ("/x,,hde", "beyond what there is"),
        ("/x,,xvda,w,backendtype=vhost", 'unknown backendtype "vhost"'),
        ("/x,,xvda,w,specification=scsi", 'unknown specification "scsi"'),
        ("/x,vmdk2,xvda,w", 'unknown format "vmdk2"'),
        ("/x,,xvda,w,devtype=floppy", 'unknown devtype "floppy"'),
        ("/x,,xvda,bogus=1", "unknown parameter `bogus'"),
        ("", "no vdev is given"),
    ],
)
def test_bad_disks(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        DiskSpecification.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/x,qcow2,xvda,w,backendtype=phy", "backendtype phy is for raw images"),
        ("/x,,xvda,w,backendtype=standalone", "backendtype standalone"),
        ("/x,,xvda,w,specification=virtio", "specification virtio"),
        ("/x,,xvda,w,backend=storage", "a backend in the domain storage"),
        ("iqn,,xvda,w,script=block-iscsi", "the script block-iscsi"),
        ("/x,qcow2,xvda,w!", "needs a raw image"),
        ("/x,vhd,xvda,w,backendtype=qdisk", ""),
        ("/x,raw,xvda,w,backendtype=phy", ""),
        ("vdev=hdc,cdrom,backendtype=phy", ""),
    ],
)
def test_disks_that_are_understood_and_refused(text: str, reason: str) -> None:
    assert reason in DiskSpecification.parse(text).unsupported()
    assert bool(reason) == bool(DiskSpecification.parse(text).unsupported())


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
        (
            "forward=[::1]/8080:80,forward=udp/fd00::0:1/53",
            VifSpecification(forwards=("tcp/::1/8080:80", "udp/fd00::1/53:53")),
        ),
        ("ip=10.0.0.1,vifname=v,script=vif-nat,backend=0", VifSpecification(ip="10.0.0.1", vifname="v", script="vif-nat", backend="0")),
        ("trusted,rate=100b/s@5,mtu=65535", VifSpecification(rate="100b/s@5", mtu=65535)),
    ],
)
def test_vifs(text: str, vif: VifSpecification) -> None:
    assert VifSpecification.parse(text) == vif
    assert VifSpecification.parse(str(vif)) == vif


@pytest.mark.parametrize(
    "text",
    [
        "mac=1",
        "bogus",
        "bogus=1",
        "type=tap",
        "mtu=x",
        "mtu=99999",
        "devid=-1",
        "rate=fast",
        "rate=1MB",
        "rate=1MB/s@0",
        "mac=00:16:3e:0:0:100",
        "forward=0",
        "forward=[::1/80",
        "forward=::1]/80",
        "forward=1.2.3/80",
        "forward=sctp/80",
        "forward=80:99999",
    ],
)
def test_bad_vifs(text: str) -> None:
    with pytest.raises(ValueError):
        VifSpecification.parse(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("10Mb/s", (62500, 50000)), ("250KB/s", (12500, 50000)), ("1MB/s@20ms", (20000, 20000)), ("1GB/s@10us", (10000, 10))]
)
def test_rates(text: str, rate: tuple[int, int]) -> None:
    assert parse_rate(text) == rate
