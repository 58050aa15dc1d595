"""The pages of docs/deploy on Kubernetes and the clouds name what there is, and their dry runs run."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy import kustomize
from tests.deploy.clouds import DEPLOY, ROOT
from tests.support.markdown import Block, blocks_of

_PAGES = ("kubernetes", "aws", "gcp", "azure")
_BLOCKS = {page: blocks_of(ROOT / "docs" / "deploy" / f"{page}.md") for page in _PAGES}
each_page = pytest.mark.parametrize("page", _PAGES)


def _text(page: str) -> str:
    return (ROOT / "docs" / "deploy" / f"{page}.md").read_text()


@each_page
def test_a_page_says_how_to_deploy_check_and_undo(page: str) -> None:
    headings = re.findall(r"^#+ (.*)$", _text(page), re.MULTILINE)
    assert {"Check", "Undo"} <= set(headings)


@each_page
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = _text(page)
    named = set(re.findall(r"(?:deploy|docs)/[\w./-]*[\w]", text))
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    assert named
    for path in named - {"deploy/kubernetes/overlays/dev/secrets.env"}:
        assert (ROOT / path).exists() or path == "deploy/docker/Dockerfile", path
    for link in links:
        assert (ROOT / "docs" / "deploy" / link).exists(), link
    for short in re.findall(r"`((?:base|overlays|components)/[\w./-]+)`", text):
        assert (DEPLOY / "kubernetes" / short).exists(), short


@each_page
def test_every_block_is_shell_that_can_be_read(page: str) -> None:
    blocks = [block for block in _BLOCKS[page] if block.language == "sh"]
    assert blocks
    for block in blocks:
        read = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
        assert read.returncode == 0, (str(block), read.stderr)


@pytest.mark.parametrize(
    "block",
    [b for page in _PAGES for b in _BLOCKS[page] if "--dry-run" in b.code],
    ids=lambda b: b.code.splitlines()[-1],
)
def test_a_dry_run_runs_as_it_stands_on_the_page(block: Block, tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(DEPLOY)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("PEM")
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("aws", "gcloud", "az", "docker"):
        (commands / name).write_text("#!/bin/sh\nexit 99\n")
    (commands / "git").write_text('#!/bin/sh\ncase "$*" in *rev-parse*) echo 0123456789ab ;; esac\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        cwd=tmp_path,
        env={"PATH": f"{commands}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "+ docker push" in ran.stdout


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_the_pages_name_every_secret(cloud: str) -> None:
    text = _text(cloud)
    if cloud == "aws":
        (secret,) = [block for block in _BLOCKS["aws"] if "secret.json" in block.code]
        keys = json.loads(secret.code.partition("<<'END'\n")[2].partition("\nEND\n")[0]).keys()
        asked = re.findall(r"\$\{SECRET_ARN\}:(\w+)::", (DEPLOY / "aws" / "task-definition.json").read_text())
        assert set(asked) == set(keys)
        return
    source = "cloudrun.yaml" if cloud == "gcp" else "deploy.sh"
    asked = re.findall(r"\bagentmesh-(?:[a-z]+-)+(?:url|token|keys?)\b", (DEPLOY / cloud / source).read_text())
    assert len(set(asked)) == 5
    assert all(f"`{name}`" in text for name in asked)


def test_what_the_kubernetes_page_applies_and_waits_for_is_there() -> None:
    code = "".join(block.code for block in _BLOCKS["kubernetes"])
    for path in re.findall(r"(?:-k|kubectl kustomize) (\S+)", code):
        assert (ROOT / path / "kustomization.yaml").exists()
    deployments = set(re.findall(r"deployment/([\w-]+)", code))
    assert deployments == {one["metadata"]["name"] for one in kustomize.of_kind("production", "Deployment")}
    assert "job/agentmesh-migrate" in code
    assert "-l agentmesh/step=before" in code
