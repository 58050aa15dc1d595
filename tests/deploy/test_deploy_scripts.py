"""The deploy scripts run what they say, in order; a dry run runs nothing; no secret is where others can read it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.deploy.clouds import COMMIT, DEPLOY, ROOT, Call, Ran, run_script
from tests.deploy.test_clouds import AWS, AZURE, GCP, SECRETS

_TAG = AWS["IMAGE"].rpartition(":")[2]
_GIT = (("git -C", "", 0),)
_PASSWORD = "the-password-of-the-registry"
_REVISION = "arn:aws:ecs:us-west-2:123456789012:task-definition/agentmesh:7"
_BUILD = f"docker build --platform linux/amd64 --file {ROOT}/deploy/docker/Dockerfile --tag "

_VARIABLES: dict[str, Mapping[str, str]] = {
    "aws": {"AWS_REGION": "us-west-2", "AWS_ACCOUNT_ID": "123456789012", "SECRET_ARN": AWS["SECRET_ARN"]},
    "gcp": {"PROJECT_ID": "my-project", "REGION": "us-central1"},
    "azure": {
        "RESOURCE_GROUP": "mesh",
        "REGISTRY": "myregistry",
        "VAULT": "my-vault",
        "IDENTITY": AZURE["IDENTITY"],
        "DNS_LABEL": "my-agentmesh",
    },
}
_ANSWERS: dict[str, tuple[tuple[str, str, int], ...]] = {
    "aws": (
        ("get-login-password", _PASSWORD, 0),
        ("describe-images", "", 254),
        ("register-task-definition", _REVISION, 0),
        ("networkConfiguration", '{"awsvpcConfiguration": {"subnets": ["subnet-1"]}}', 0),
        ("run-task", "arn:aws:ecs:us-west-2:123456789012:task/agentmesh/abc", 0),
        ("exitCode", "0", 0),
        ("services[0].taskDefinition", _REVISION, 0),
    ),
    "gcp": (("print-access-token", _PASSWORD, 0), ("services describe", "https://agentmesh-x.a.run.app", 0)),
    "azure": (
        ("acr login", _PASSWORD, 0),
        ("agentmesh-database-url", SECRETS["DATABASE_URL"], 0),
        ("agentmesh-redis-url", SECRETS["REDIS_URL"], 0),
        ("agentmesh-services-token", SECRETS["AGENTMESH_SERVICES__TOKEN"], 0),
        ("agentmesh-api-keys", SECRETS["AGENTMESH_SECURITY__API_KEYS"], 0),
        ("agentmesh-openai-api-key", SECRETS["OPENAI_API_KEY"], 0),
        ("instanceView.state", "Running", 0),
    ),
}
_TOOL = {"aws": "aws", "gcp": "gcloud", "azure": "az"}
each_cloud = pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])


def _deploy(cloud: str, folder: Path, *options: str, changed: Mapping[str, str] | None = None, **how: object) -> Ran:
    variables = {**_VARIABLES[cloud], **(changed or {})}
    if cloud == "azure":
        for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"):
            file = folder / f"{name}.pem"
            file.write_text(f"-- {name} --\n")
            variables.setdefault(name, str(file))
    answers = (*how.pop("answers", ()), *_ANSWERS[cloud], ("rev-parse", COMMIT, 0))  # type: ignore[misc]
    return run_script(DEPLOY / cloud / "deploy.sh", folder, variables, *options, answers=answers, **how)  # type: ignore[arg-type]


def _lines(ran: Ran) -> list[str]:
    return [call.line for call in ran.calls if call.words[0] != "git"]


@each_cloud
def test_a_dry_run_prints_every_command_and_calls_none(cloud: str, tmp_path: Path) -> None:
    dry = _deploy(cloud, _made(tmp_path / "dry"), "--dry-run", answers=(("git", "", 0),), forbidden=True)
    assert dry.code == 0, dry.errors
    assert _lines(dry) == []
    assert "nothing was changed" in dry.errors
    wet = _deploy(cloud, _made(tmp_path / "wet"))
    assert wet.code == 0, wet.errors
    shown = [line for line in dry.output.splitlines() if line.startswith("+ ")]
    # A login is one line, and two commands; that an image is not there yet is not shown.
    logins = sum(" | docker login " in line for line in shown)
    asked = sum("describe-images" in line for line in _lines(wet))
    assert logins == 1
    assert len(shown) + logins == len(_lines(wet)) - asked
    assert [line.split()[1] for line in shown if " | " not in line] == [
        line.split()[0]
        for line in _lines(wet)
        if "login" not in line and "token" not in line.split()[2] and "describe-images" not in line
    ]
    assert not any(secret in dry.output for secret in SECRETS.values())


@each_cloud
def test_missing_variables_and_tools_are_named(cloud: str, tmp_path: Path) -> None:
    empty = dict.fromkeys(_VARIABLES[cloud], "")
    ran = _deploy(cloud, _made(tmp_path / "a"), changed=empty)
    assert ran.code == 1
    assert ran.calls == []
    for name in _VARIABLES[cloud]:
        assert name in ran.errors
    ran = _deploy(cloud, _made(tmp_path / "b"), without=_TOOL[cloud])
    assert (ran.code, ran.calls) == (1, [])
    assert f"{_TOOL[cloud]} is not installed" in ran.errors


@each_cloud
def test_help_says_every_variable_and_a_wrong_option_is_refused(cloud: str, tmp_path: Path) -> None:
    ran = _deploy(cloud, _made(tmp_path / "a"), "--help", changed=dict.fromkeys(_VARIABLES[cloud], ""))
    assert ran.code == 0
    assert ran.calls == []
    assert all(name in ran.output for name in (*_VARIABLES[cloud], "IMAGE_TAG", "--dry-run"))
    ran = _deploy(cloud, _made(tmp_path / "b"), "--dryrun")
    assert (ran.code, ran.calls) == (2, [])


@each_cloud
def test_what_is_not_committed_is_not_deployed(cloud: str, tmp_path: Path) -> None:
    ran = _deploy(cloud, _made(tmp_path / "a"), answers=(("status --porcelain", " M services/x.py\n", 0),))
    assert ran.code == 1
    assert "uncommitted changes" in ran.errors
    assert _lines(ran) == []
    named = _deploy(cloud, _made(tmp_path / "b"), changed={"IMAGE_TAG": "1.2.3"})
    assert named.code == 0, named.errors
    assert any(line.startswith("docker push") and line.endswith(":1.2.3") for line in _lines(named))


@each_cloud
def test_secrets_are_on_no_command_line_in_no_environment_and_in_no_file_that_stays(cloud: str, tmp_path: Path) -> None:
    ran = _deploy(cloud, _made(tmp_path / "a"))
    assert ran.code == 0, ran.errors
    (login,) = [call for call in ran.calls if "--password-stdin" in call.words]
    assert login.input == _PASSWORD
    for secret in (*SECRETS.values(), _PASSWORD, "-- TLS_KEY_FILE --"):
        for call in ran.calls:
            assert secret not in call.line
            assert secret not in "".join(call.variables.values())
        assert secret not in ran.output + ran.errors
        left = [path for path in (tmp_path / "a").rglob("*") if path.is_file() and path.parent.name != "bin"]
        assert not [p for p in left if p.suffix not in (".jsonl", ".pem") and secret in p.read_text()]


@each_cloud
def test_a_failure_stops_everything_that_would_come_after(cloud: str, tmp_path: Path) -> None:
    ran = _deploy(cloud, _made(tmp_path / "a"), answers=(("docker push", "", 1),))
    assert ran.code != 0
    assert _lines(ran)[-1].startswith("docker push")


def test_aws_builds_migrates_updates_and_waits(tmp_path: Path) -> None:
    ran = _deploy("aws", _made(tmp_path / "a"), changed={"DESIRED_COUNT": "3"})
    assert ran.code == 0, ran.errors
    service = "--region us-west-2 --cluster agentmesh"
    task = "arn:aws:ecs:us-west-2:123456789012:task/agentmesh/abc"
    begins = [
        "aws ecr describe-images --region us-west-2 --repository-name agentmesh --image-ids imageTag=" + COMMIT,
        "aws ecr get-login-password --region us-west-2",
        "docker login --username AWS --password-stdin 123456789012.dkr.ecr.us-west-2.amazonaws.com",
        f"{_BUILD}{AWS['IMAGE']} {ROOT}",
        f"docker push {AWS['IMAGE']}",
        "aws ecs register-task-definition --region us-west-2 --cli-input-json file://",
        f"aws ecs describe-services {service} --services agentmesh --query services[0].networkConfiguration",
        f"aws ecs run-task {service} --launch-type FARGATE --task-definition {_REVISION}",
        f"aws ecs wait tasks-stopped {service} --tasks {task}",
        f"aws ecs describe-tasks {service} --tasks {task}",
        f"aws ecs update-service {service} --service agentmesh --task-definition {_REVISION} --desired-count 3",
        f"aws ecs wait services-stable {service} --services agentmesh",
        f"aws ecs describe-services {service} --services agentmesh --query services[0].taskDefinition",
    ]
    _assert_begin(ran, begins)
    (registered,) = [call for call in ran.calls if "register-task-definition" in call.words]
    definition = yaml.safe_load(registered.files["task-definition.json"])
    assert definition["containerDefinitions"][1]["image"] == AWS["IMAGE"]
    assert "${" not in registered.files["task-definition.json"]
    (migration,) = [call for call in ran.calls if "run-task" in call.words]
    overrides = yaml.safe_load(migration.words[migration.words.index("--overrides") + 1])
    assert overrides == {"containerOverrides": [{"name": "agentmesh", "command": ["migrate", "up"]}]}


def test_aws_builds_no_commit_twice(tmp_path: Path) -> None:
    ran = _deploy("aws", _made(tmp_path / "a"), answers=(("describe-images", "{}", 0),))
    assert ran.code == 0, ran.errors
    assert not [line for line in _lines(ran) if line.startswith("docker")]


def test_aws_deploys_nothing_after_a_failed_migration_and_says_when_ecs_went_back(tmp_path: Path) -> None:
    ran = _deploy("aws", _made(tmp_path / "a"), answers=(("exitCode", "1", 0),))
    assert ran.code == 1
    assert "the migration ended with 1" in ran.errors
    assert not [line for line in _lines(ran) if "update-service" in line]
    older = _REVISION.replace(":7", ":6")
    ran = _deploy("aws", _made(tmp_path / "b"), answers=(("services[0].taskDefinition", older, 0),))
    assert ran.code == 1
    assert f"went back to {older}" in ran.errors


def test_gcp_builds_migrates_and_replaces(tmp_path: Path) -> None:
    ran = _deploy("gcp", _made(tmp_path / "a"), changed={"PUBLIC": "yes"})
    assert ran.code == 0, ran.errors
    where = "--project my-project --region us-central1"
    begins = [
        "gcloud auth print-access-token",
        "docker login --username oauth2accesstoken --password-stdin https://us-central1-docker.pkg.dev",
        f"{_BUILD}{GCP['IMAGE']} {ROOT}",
        f"docker push {GCP['IMAGE']}",
        f"gcloud run jobs deploy agentmesh-migrate {where} --image {GCP['IMAGE']} --args migrate,up",
        f"gcloud run jobs execute agentmesh-migrate {where} --wait",
        "gcloud run services replace ",
        f"gcloud run services add-iam-policy-binding agentmesh {where} --member allUsers --role roles/run.invoker",
        f"gcloud run services describe agentmesh {where}",
    ]
    _assert_begin(ran, begins)
    (replaced,) = [call for call in ran.calls if "replace" in call.words]
    service = yaml.safe_load(replaced.files["cloudrun.yaml"])
    (container,) = service["spec"]["template"]["spec"]["containers"]
    assert container["image"] == GCP["IMAGE"]
    assert "https://agentmesh-x.a.run.app" in ran.errors
    closed = _deploy("gcp", _made(tmp_path / "b"))
    assert not [line for line in _lines(closed) if "allUsers" in line]


def test_azure_reads_secrets_from_the_vault_and_makes_the_group(tmp_path: Path) -> None:
    ran = _deploy("azure", _made(tmp_path / "a"))
    assert ran.code == 0, ran.errors
    vault = "az keyvault secret show --vault-name my-vault --name agentmesh-"
    begins = [
        "az acr login --name myregistry --expose-token --query accessToken --output tsv",
        "docker login --username 00000000-0000-0000-0000-000000000000 --password-stdin myregistry.azurecr.io",
        f"{_BUILD}{AZURE['IMAGE']} {ROOT}",
        f"docker push {AZURE['IMAGE']}",
        *(f"{vault}{name}" for name in ("database-url", "redis-url", "services-token", "api-keys", "openai-api-key")),
        "az container create --resource-group mesh --file ",
        "az container show --resource-group mesh --name agentmesh",
    ]
    _assert_begin(ran, begins)
    (created,) = [call for call in ran.calls if "create" in call.words]
    properties = yaml.safe_load(created.files["container-group.yaml"])["properties"]
    variables = properties["containers"][0]["properties"]["environmentVariables"]
    told = {one["name"]: one["secureValue"] for one in variables if "secureValue" in one}
    # Also what YAML and the shell would read as their own.
    assert told == {name: SECRETS[name] for name in told}
    assert len(told) == 5


def test_azure_makes_no_group_without_all_secrets_and_says_when_it_does_not_run(tmp_path: Path) -> None:
    ran = _deploy("azure", _made(tmp_path / "a"), answers=(("agentmesh-redis-url", "", 3),))
    assert ran.code == 1
    assert "agentmesh-redis-url can't be read from my-vault" in ran.errors
    assert not [line for line in _lines(ran) if "container create" in line]
    ran = _deploy("azure", _made(tmp_path / "b"), answers=(("instanceView.state", "Failed", 0),))
    assert ran.code == 1
    assert "the group is Failed" in ran.errors


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _assert_begin(ran: Ran, begins: list[str]) -> None:
    lines = [call.line for call in _own(ran)]
    assert len(lines) == len(begins), lines
    for line, begin in zip(lines, begins, strict=True):
        assert line.startswith(begin), (line, begin)


def _own(ran: Ran) -> list[Call]:
    return [call for call in ran.calls if call.words[0] != "git"]
