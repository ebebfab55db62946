"""Domain configurations: the xl.cfg(5) parser and the typed configuration of a domain. Depends on nothing else of pyxen."""

from pyxen.toolstack.configuration.domain_config import DomainConfig
from pyxen.toolstack.configuration.errors import ConfigError, ConfigWarning, Place, UnsupportedError
from pyxen.toolstack.configuration.syntax import Settings, parse

__all__ = ["ConfigError", "ConfigWarning", "DomainConfig", "Place", "Settings", "UnsupportedError", "parse"]
