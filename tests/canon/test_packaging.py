"""What is shipped: one import package, with every folder of the repository that holds Python modules."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"canon": "canon", "representations": "canon.representations", "editors": "canon.editors"}
FOLDERS |= {"scenes": "canon.scenes"}


def on_disk() -> set[str]:
    """Import names of all folders with an __init__.py; symbolic links are another name for a folder of the root."""
    found = set()
    for folder, name in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            if any((ROOT / folder / part).is_symlink() for part in (inner, *inner.parents)):
                continue
            found.add(".".join([name, *inner.parts]))
    return found


def test_the_package_list_is_what_lies_on_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(on_disk())
    assert settings["package-dir"] == {name: folder for folder, name in FOLDERS.items()}


def test_every_folder_of_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module.parent} would not be shipped"


def test_the_links_lead_to_the_folders() -> None:
    for folder in ("representations", "editors", "scenes"):
        link = ROOT / "canon" / folder
        assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == (ROOT / folder).resolve()


@pytest.mark.slow
def test_a_wheel_holds_one_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed here, and none is downloaded for a test")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"][0].split(">=")[1]
    if int(importlib.metadata.version("setuptools").split(".")[0]) < int(wanted):
        pytest.skip(f"setuptools is older than {wanted} here, and none is downloaded for a test")
    source = tmp_path / "source"
    # A copy, so that the build leaves nothing behind in the repository.
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        ignored = shutil.ignore_patterns("__pycache__")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]} == {"canon"}
    shipped = {".".join(Path(name).parent.parts) for name in names if name.endswith("/__init__.py")}
    assert shipped == on_disk()
    assert "canon/py.typed" in names and "canon/representations/atlas/pipeline.py" in names
