"""The native part of the package build; everything else is in pyproject.toml.

The CPU engine is built by native/build.py and carried in the wheel, which therefore is for x86-64 Linux but for any Python.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "native"))

import build as engine_build  # noqa: E402


class BuildWithEngine(build_py):
    """Adds the engine library to the package: to the build tree, or to the source tree for an editable install."""

    def run(self) -> None:
        super().run()
        try:
            library = engine_build.build()
        except engine_build.BuildError as error:
            raise SystemExit(f"pyxen: {error}") from None
        package = ROOT / "src" if self.editable_mode else Path(self.build_lib)
        target = package / "pyxen" / "engine" / "lib"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, target / engine_build.LIBRARY)


class PlatformWheel(bdist_wheel):
    """The library is loaded by ctypes, so the wheel depends on the platform and not on the Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildWithEngine, "bdist_wheel": PlatformWheel},
    # Asked for by the build front end only when needed: pip fetches the engine's source package, cmake and ninja build it.
    setup_requires=["pip", *engine_build.missing_tools()],
)
