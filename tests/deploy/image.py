"""The image, made without an engine: the Dockerfile's own steps run in folders that stand for the image's."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.build_context import files_of
from tests.deploy.dockerfile import Stage, moved, stages_of

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"
_STEP_S = 240


@dataclass(frozen=True)
class Image:
    """Where the parts of the image are on this machine; `python` is in place of the base image's."""

    folders: dict[str, Path]
    builder: Stage
    final: Stage
    python: Path

    @property
    def installation(self) -> Path:
        """Return the folder that the final stage copies from the builder."""
        return self.folders["/opt/agentmesh"]

    @property
    def data(self) -> Path:
        """Return the data folder, which is where processes start as well."""
        return self.folders["/var/lib/agentmesh"]

    def environment(self) -> dict[str, str]:
        """Return a container's environment: what the final stage sets, and nothing of this process."""
        variables = {name: moved(value, self.folders) for name, value in self.final.variables().items()}
        path = variables["PATH"].replace("$PATH", "/usr/bin:/bin")
        # What a package index or a proxy needs here is no part of it; temporary files go where /tmp is.
        return {**variables, "PATH": path, "TMPDIR": str(self.folders["/tmp"])}

    def command(self, keyword: str) -> list[str]:
        """Return the words of ENTRYPOINT, CMD or HEALTHCHECK."""
        words = self.final.one(keyword)
        return type(words)(keyword, words.text.partition("CMD ")[2]).words() if "CMD " in words.text else words.words()

    def build_step(self, script: str, source: Path, folders: dict[str, Path]) -> "subprocess.CompletedProcess[str]":
        """Run what the builder runs, in a folder that stands for its own, with its environment."""
        folders = {**self.folders, "/src": source, **folders}
        environment = {name: text for name, text in os.environ.items() if not name.startswith(("AGENTMESH_", "PYTHON"))}
        environment |= {name: moved(text, folders) for name, text in self.builder.variables().items()}
        environment.setdefault("UV_SYSTEM_CERTS", "true")  # pip may have its own from its configuration
        environment["PATH"] = f"{self.python / 'bin'}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            ["sh", "-c", moved(script, folders)],
            cwd=source,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STEP_S,
            check=False,
        )

    def written(self, since: float) -> list[Path]:
        """Return what changed after a moment in the folders that are read-only in a container."""
        found = [Path(folder) / name for folder, _, names in os.walk(self.installation) for name in (*names, ".")]
        return [path for path in found if path.lstat().st_mtime > since]


def built(folder: Path) -> Image:
    """Run every step of the builder, in order, with pip, uv and Python as they would be there."""
    builder, final = stages_of(DOCKERFILE)
    folders = {
        "/opt/agentmesh": folder / "opt",
        "/src": folder / "src",
        "/tmp": folder / "tmp",
        "/var/lib/agentmesh": folder / "data",
    }
    for name in ("src", "tmp", "data"):
        (folder / name).mkdir()
    for file in files_of(ROOT):
        (folder / "src" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / "src" / file)
    image = Image(folders, builder, final, folder / "python")
    subprocess.run([sys.executable, "-m", "venv", str(image.python)], check=True, timeout=_STEP_S)
    for script in builder.scripts():
        done = image.build_step(script, folder / "src", folders)
        assert done.returncode == 0, f"{script}\n{done.stdout}"
    return image
