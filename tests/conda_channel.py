"""Conda channels in a folder, with real packages: the Python that runs the tests, packed as conda has it, and tiny stand-ins for what the profile
cu121 takes from conda. Solved and installed by a real solver (py-rattler), without a network.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
SYSTEM = "linux-64"
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "turtledemo",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "tkinter",
    "EXTERNALLY-MANAGED",
}

TORCH = """
__version__ = "2.4.1"
class version:
    cuda = "12.1"
"""


class CondaChannels:
    """`folder`/conda-forge, `folder`/pytorch, ...: what SAM3D_CONDA_CHANNEL_ALIAS names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.as_uri()

    def build(self) -> None:
        """Pack everything and index it. About a second."""
        self._python()
        self.add(
            "pytorch",
            "pytorch",
            "2.4.1",
            "py3.10_cuda12.1_cudnn9.1.0_0",
            self._module("torch", "2.4.1", TORCH),
            ["python", "pytorch-cuda 12.1.*"],
        )
        self.add("pytorch", "torchvision", "0.19.1", "py310_cu121", self._module("torchvision", "0.19.1", ""), ["pytorch 2.4.1"])
        self.add("pytorch", "pytorch-cuda", "12.1", "ha16c6d3_6", {"lib/cuda.txt": "12.1"}, ["__cuda"])
        build = "py310_cu121_pyt241"
        self.add(
            "pytorch3d", "pytorch3d", "0.7.8", build, self._module("pytorch3d", "0.7.8", ""), ["pytorch 2.4.1", "torchvision", "iopath"]
        )
        for name in ("fvcore", "iopath"):
            self.add("conda-forge", name, "0.1.10", "pyhd8ed1ab_0", self._module(name, "0.1.10", ""), ["python"])
        (self.folder / "nvidia" / SYSTEM).mkdir(parents=True, exist_ok=True)
        self.index()

    def add(self, channel: str, name: str, version: str, build: str, files: dict[str, str], depends: list[str]) -> None:
        """One package of a few text files."""
        from rattler_build import assemble_package

        staged = self.folder / "staged" / name
        for path, text in files.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_text(text)
        assemble_package(name, version, SYSTEM, build, self._out(channel), files_dir=staged, depends=depends, compression_level=1)

    def index(self) -> None:
        from rattler.index import index_fs

        async def everything() -> None:
            for channel in self.folder.iterdir():
                if channel.name != "staged":
                    (channel / "noarch").mkdir(exist_ok=True)
                    await index_fs(channel)

        asyncio.run(everything())

    def _out(self, channel: str) -> Path:
        out = self.folder / channel / SYSTEM
        out.mkdir(parents=True, exist_ok=True)
        return out

    def _module(self, name: str, version: str, text: str) -> dict[str, str]:
        """A module with the metadata that uv reads."""
        site, info = f"lib/python{VERSION}/site-packages", f"{name}-{version}.dist-info"
        return {
            f"{site}/{name}/__init__.py": text,
            f"{site}/{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{site}/{info}/INSTALLER": "conda\n",
            f"{site}/{info}/RECORD": f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/RECORD,,\n",
        }

    def _python(self) -> None:
        """This Python's own tree, without its tests and what is installed into it."""
        from rattler_build import assemble_package

        prefix, staged = Path(sys.base_prefix), self.folder / "staged" / "python"
        for source in self._files(prefix):
            target = staged / source.relative_to(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target) if not source.is_symlink() and os.stat(source).st_dev == os.stat(
                staged.parent
            ).st_dev else target.write_bytes(source.read_bytes())
        for name in ("python", "python3"):
            (staged / "bin" / name).unlink(missing_ok=True)
            (staged / "bin" / name).symlink_to(f"python{VERSION}")
        for path in staged.joinpath("bin").iterdir():
            path.is_symlink() or path.chmod(0o755)
        assemble_package("python", f"{VERSION}.0", SYSTEM, "h0_0", self._out("conda-forge"), files_dir=staged, compression_level=1)

    def _files(self, prefix: Path) -> list[Path]:
        found = [prefix / "bin" / f"python{VERSION}", *prefix.glob("lib/libpython*.so*")]
        for where, folders, names in os.walk(prefix / "lib" / f"python{VERSION}"):
            folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
            found += [Path(where, name) for name in names if name not in _LEFT_OUT and not name.endswith((".pyc", ".a"))]
        return found
