"""How a user names a device of any class."""

from __future__ import annotations

import re

from pyxen.toolstack.devices.vdev import device_number

_CLASS_AND_NUMBER = re.compile(r"([a-z0-9]{1,16})/([0-9]{1,9})")
_VIF = re.compile(r"vif([0-9]{1,9})")


def class_and_number(text: str) -> tuple[str, int]:
    """ "xvda", "51712" -> ("vbd", 51712); "vif0" -> ("vif", 0); "vkbd/0" -> ("vkbd", 0). Raises ``ValueError``."""
    if match := _CLASS_AND_NUMBER.fullmatch(text):
        return match[1], int(match[2])
    if match := _VIF.fullmatch(text):
        return "vif", int(match[1])
    return "vbd", device_number(text)
