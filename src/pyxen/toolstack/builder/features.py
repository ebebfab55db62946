"""XENFEAT_*: what a kernel says that it needs and can use (features.h, XEN_ELFNOTE_FEATURES in elfnote.h)."""

from __future__ import annotations

from pyxen.abi import features as abi_features
from pyxen.toolstack.builder.errors import KernelUnsupportedError, printable

#: Name in a FEATURES string -> bit number.
FEATURE_BITS: dict[str, int] = {
    name.removeprefix("XENFEAT_"): value
    for name, value in vars(abi_features).items()
    if name.startswith("XENFEAT_") and name != "XENFEAT_NR_SUBMAPS" and isinstance(value, int)
}

#: What a kernel may demand and a PV64 domain without privileges does not have, with the reason for the user.
_MISSING_IN_PV: dict[int, str] = {
    abi_features.XENFEAT_auto_translated_physmap: "it runs only with hardware-assisted paging: use type = 'pvh'",
    abi_features.XENFEAT_supervisor_mode_kernel: "it must run in ring 0: use type = 'pvh'",
    abi_features.XENFEAT_writable_descriptor_tables: "a PV domain's descriptor tables are read-only: use type = 'pvh'",
    abi_features.XENFEAT_hvm_callback_vector: "it runs only in an HVM container: use type = 'pvh'",
    abi_features.XENFEAT_hvm_safe_pvclock: "it runs only in an HVM container: use type = 'pvh'",
    abi_features.XENFEAT_hvm_pirqs: "it runs only in an HVM container: use type = 'pvh'",
    abi_features.XENFEAT_dom0: "it runs only as Domain 0: use a kernel for unprivileged domains",
}


def parse_features(untrusted_text: str) -> tuple[frozenset[int], frozenset[int]]:
    """``a|!b`` -> (bits supported, bits required). A required feature is also a supported one. An unknown name is ignored, as Xen
    does, unless the kernel requires it: KernelUnsupportedError."""
    supported: set[int] = set()
    required: set[int] = set()
    for untrusted_word in untrusted_text.split("|"):
        name = untrusted_word.strip()
        must = name.startswith("!")
        name = name.removeprefix("!")
        bit = FEATURE_BITS.get(name)
        if bit is None:
            if must:
                raise KernelUnsupportedError(f"its Xen notes require a feature that Xen does not know: {printable(name)}")
            continue
        supported.add(bit)
        if must:
            required.add(bit)
    return frozenset(supported), frozenset(required)


def check_required_features(required: frozenset[int]) -> None:
    """KernelUnsupportedError when the kernel requires what a PV64 domain does not have."""
    for bit in sorted(required):
        reason = _MISSING_IN_PV.get(bit)
        if reason is not None:
            name = next(name for name, value in FEATURE_BITS.items() if value == bit)
            raise KernelUnsupportedError(f"it requires the feature {name}, which PV domains don't have: {reason}")
