"""Renders the overlays of deploy/kubernetes with the real kustomize, which needs no network for it."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.go_tools import go_tool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("dev", "production")
KUSTOMIZE = ("sigs.k8s.io/kustomize/kustomize/v5", "v5.8.2")
SERVICES = {
    "router": "router",
    "agent-runner": "runner",
    "llm-proxy": "llm",
    "storage": "storage",
    "gateway": "gateway",
}
"""What is deployed under which name runs which role."""

Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """Return every object of an overlay; `secrets.env` is the example, as a user copies it."""
    binary = go_tool(*KUSTOMIZE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "kubernetes"
        shutil.copytree(FOLDER, folder)
        example = folder / "overlays" / overlay / "secrets.env.example"
        if example.exists():
            shutil.copy(example, example.with_suffix(""))
        # Without PATH it finds no git and no helm; nothing else could fetch anything.
        done = subprocess.run(
            [str(binary), "build", str(folder / "overlays" / overlay)],
            env={"HOME": place, "PATH": os.devnull},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    if done.returncode != 0:
        pytest.fail(f"kustomize build {overlay} failed:\n{done.stderr}")
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Manifest]:
    """Return the objects of some kinds."""
    return [one for one in rendered(overlay) if one["kind"] in kinds]


def named(overlay: str, kind: str, name: str) -> Manifest:
    """Return one object."""
    (found,) = [one for one in of_kind(overlay, kind) if one["metadata"]["name"] == name]
    return found


def workloads(overlay: str) -> list[Manifest]:
    """Return everything that makes pods."""
    return of_kind(overlay, "Deployment", "StatefulSet", "Job")


def pod_labels(workload: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Manifest) -> Iterator[Manifest]:
    """Yield the containers of a workload's pods."""
    spec = workload["spec"]["template"]["spec"]
    yield from spec["containers"]
    yield from spec.get("initContainers", ())


def container_of(overlay: str, service: str) -> Manifest:
    """Return the container of a service of the mesh."""
    (container,) = containers(named(overlay, "Deployment", service))
    return container


def environment_of(overlay: str, workload: Manifest, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a workload's container as the kubelet would set them."""
    (container,) = containers(workload)
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= named(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container.get("env", ()):
        if "value" in entry:
            variables[entry["name"]] = entry["value"]
        elif "fieldRef" in entry["valueFrom"]:
            assert entry["valueFrom"]["fieldRef"] == {"fieldPath": "metadata.name"}
            variables[entry["name"]] = f"{workload['metadata']['name']}-5d9c-x7k2p"
        else:
            reference = entry["valueFrom"]["secretKeyRef"]
            if reference["key"] in secrets:
                variables[entry["name"]] = secrets[reference["key"]]
            else:
                assert reference.get("optional"), f"{entry['name']} is needed, and nobody has it"
    return variables
