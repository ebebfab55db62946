"""The results of ``make bench`` as a picture: ``python benchmarks/plot.py RESULTS.json PICTURE.svg``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from micro import LINES
from peer import XEN_IN_QEMU

#: The same input is to make the same file.
matplotlib.rcParams["svg.hashsalt"] = "pyxen"

_OURS, _PVH, _OTHER = "#2a6f97", "#89c2d9", "#adb5bd"


def draw(result: dict[str, Any], path: Path) -> None:
    """What there is of the results; a part that did not run is left out. The format is that of the file name's suffix."""
    panels = [panel for panel, keys in _PANELS if all(result.get(key) for key in keys)]
    figure = Figure(figsize=(13, 5.2 * ((len(panels) + 1) // 2)), layout="constrained")
    for position, panel in enumerate(panels, 1):
        panel(figure.add_subplot((len(panels) + 1) // 2, 2, position), result)
    machine = result["machine"]
    figure.suptitle(f"pyxen on {machine['cpus']} x {machine['cpu']}, Python {machine['python']}, guest kernel {result['kernel']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _boot(axes: Axes, result: dict[str, Any]) -> None:
    bars = {
        "pyxen, xl create": result["boot"]["median_s"],
        "pyxen, starts the host": result["boot"]["with_host_start_s"],
        "QEMU TCG without Xen": result.get("qemu_boot_s"),
        f"{XEN_IN_QEMU.name} (earlier)": XEN_IN_QEMU.boot,
    }
    shown = {name: value for name, value in bars.items() if value}
    drawn = axes.barh(list(shown), list(shown.values()), color=[_OURS if name.startswith("pyxen") else _OTHER for name in shown])
    axes.bar_label(drawn, fmt="%.2f s", padding=3)
    axes.invert_yaxis()
    axes.set_title("Debian to its prompt, seconds (shorter is better)")
    axes.margins(x=0.15)


def _ratios(title: str, ours: str, theirs: str, pvh: str = "") -> Callable[[Axes, dict[str, Any]], None]:
    def panel(axes: Axes, result: dict[str, Any]) -> None:
        names = list(result[ours])
        rows = range(len(names))
        height = 0.4 if pvh else 0.7
        groups = [("PV", ours, _OURS, -height / 2 if pvh else 0.0)] + ([("PVH", pvh, _PVH, height / 2)] if pvh else [])
        for label, key, colour, offset in groups:
            values = [result[key][name] / result[theirs][name] for name in names]
            drawn = axes.barh([row + offset for row in rows], values, height=height, label=label, color=colour)
            axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
        axes.set_yticks(rows, names)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_title(f"{title}: pyxen / QEMU TCG without Xen (longer is better)")
        if pvh:
            axes.legend(loc="lower right")

    return panel


def _micro(axes: Axes, result: dict[str, Any]) -> None:
    shown = {LINES[name]: rate["value"] for name, rate in result["micro"].items() if rate["unit"] == "ns" and name in LINES}
    drawn = axes.barh(list(shown), list(shown.values()), color=_OURS)
    axes.bar_label(drawn, labels=[_time(value) for value in shown.values()], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("Single operations, nanoseconds (shorter is better)")


def _time(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1.0, "ns"), (1e6, 1e3, "us")):
        if nanoseconds < limit:
            return f"{nanoseconds / divisor:.3g} {unit}"
    return f"{nanoseconds / 1e6:.3g} ms"


def _stages(axes: Axes, result: dict[str, Any]) -> None:
    before = 0.0
    for name, at in result["boot"]["stages_ms"].items():
        axes.barh(name, at - before, left=before, color=_OURS)
        before = at
        if name == "first guest instruction":
            break
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title("From the request to the first guest instruction, ms")


#: Each with the parts of the results that it needs.
_PANELS: list[tuple[Callable[[Axes, dict[str, Any]], None], tuple[str, ...]]] = [
    (_boot, ("boot",)),
    (_stages, ("boot",)),
    (_ratios("Work in the guest", "rates", "qemu_rates", "pvh_rates"), ("rates", "pvh_rates", "qemu_rates")),
    (_micro, ("micro",)),
    (_ratios("Disks (virtio there)", "disk", "qemu_disk"), ("disk", "qemu_disk")),
    (_ratios("Networks (virtio there)", "network", "qemu_network"), ("network", "qemu_network")),
]


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
