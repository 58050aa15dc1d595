"""The files of deploy/aws, gcp and azure are what the clouds take, and what they run is a valid configuration."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agentmesh.kit import config, lifecycle
from agentmesh.kit.settings import Settings
from tests.deploy.clouds import DEPLOY, ROOT, as_resource, cloud_formation, filled
from tests.deploy.facts import PUBLIC_SERVICES

_SCHEMAS = Path(__file__).parent / "schemas"
_DIGEST = hashlib.sha256(b"key").hexdigest()
SECRETS = {
    "DATABASE_URL": 'postgresql://mesh:se"cr\\et$1@10.0.0.5:5432/mesh',
    "REDIS_URL": "redis://10.0.0.6:6379/0",
    "AGENTMESH_SERVICES__TOKEN": "a-secret-of-thirty-two-characters",
    "AGENTMESH_SECURITY__API_KEYS": f'[{{"sha256": "{_DIGEST}", "tenant": "acme"}}]',
    "OPENAI_API_KEY": "sk-of-nobody",
    "ANTHROPIC_API_KEY": "sk-ant-of-nobody",
}
AWS = {
    "FAMILY": "agentmesh",
    "IMAGE": "123456789012.dkr.ecr.us-west-2.amazonaws.com/agentmesh:0123456789ab",
    "EXECUTION_ROLE_ARN": "arn:aws:iam::123456789012:role/agentmesh-execution",
    "TASK_ROLE_ARN": "arn:aws:iam::123456789012:role/agentmesh-task",
    "LOG_GROUP": "/ecs/agentmesh",
    "AWS_REGION": "us-west-2",
    "SECRET_ARN": "arn:aws:secretsmanager:us-west-2:123456789012:secret:agentmesh-AbCdEf",
    "CLUSTER": "agentmesh",
    "SERVICE": "agentmesh",
    "SUBNET_A": "subnet-0a0a0a0a",
    "SUBNET_B": "subnet-0b0b0b0b",
    "TASK_SECURITY_GROUP": "sg-0c0c0c0c",
    "HTTP_TARGET_GROUP_ARN": "arn:aws:elasticloadbalancing:us-west-2:123456789012:targetgroup/http/0123456789abcdef",
    "GRPC_TARGET_GROUP_ARN": "arn:aws:elasticloadbalancing:us-west-2:123456789012:targetgroup/grpc/0123456789abcdef",
}
# What ecs.yaml calls the same things.
_STACK = {
    "AWS::StackName": AWS["FAMILY"],
    "Repository.RepositoryUri": AWS["IMAGE"].partition(":")[0],
    "ImageTag": AWS["IMAGE"].partition(":")[2],
    "ExecutionRole.Arn": AWS["EXECUTION_ROLE_ARN"],
    "TaskRole.Arn": AWS["TASK_ROLE_ARN"],
    "LogGroup": AWS["LOG_GROUP"],
    "AWS::Region": AWS["AWS_REGION"],
    "SecretArn": AWS["SECRET_ARN"],
    "HttpTargets": AWS["HTTP_TARGET_GROUP_ARN"],
    "GrpcTargets": AWS["GRPC_TARGET_GROUP_ARN"],
    "TaskSecurityGroup": AWS["TASK_SECURITY_GROUP"],
    "Cluster": AWS["CLUSTER"],
    "TaskDefinition": AWS["FAMILY"],
}
GCP = {
    "SERVICE": "agentmesh",
    "IMAGE": "us-central1-docker.pkg.dev/my-project/agentmesh/agentmesh:0123456789ab",
    "SERVICE_ACCOUNT": "agentmesh@my-project.iam.gserviceaccount.com",
    "NETWORK": "default",
    "SUBNET": "default",
}
AZURE = {
    "GROUP": "agentmesh",
    "LOCATION": "eastus",
    "IDENTITY": "/subscriptions/0/resourceGroups/mesh/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mesh",
    "REGISTRY": "myregistry",
    "DNS_LABEL": "my-agentmesh",
    "IMAGE": "myregistry.azurecr.io/agentmesh:0123456789ab",
    **{
        name: base64.b64encode(name.encode()).decode() for name in ("ENVOY_BASE64", "TLS_CERT_BASE64", "TLS_KEY_BASE64")
    },
    "DATABASE_URL": "postgresql://mesh:secret@10.0.0.5:5432/mesh",
    "REDIS_URL": SECRETS["REDIS_URL"],
    "SERVICES_TOKEN": SECRETS["AGENTMESH_SERVICES__TOKEN"],
    "API_KEYS": SECRETS["AGENTMESH_SECURITY__API_KEYS"].replace('"', '\\"'),
    "OPENAI_API_KEY": SECRETS["OPENAI_API_KEY"],
}


def _schema(name: str) -> Any:
    return yaml.safe_load((_SCHEMAS / f"{name}.yaml").read_text())


def _cloud_run() -> Any:
    return filled(DEPLOY / "gcp" / "cloudrun.yaml", GCP)


def _container_group() -> Any:
    return filled(DEPLOY / "azure" / "container-group.yaml", AZURE)


def _task_definition() -> Any:
    return filled(DEPLOY / "aws" / "task-definition.json", AWS)


def _settings_on_aws() -> Settings:
    container = _task_definition()["containerDefinitions"][1]
    assert {one["name"] for one in container["secrets"]} == set(SECRETS)
    variables = {one["name"]: one["value"] for one in container["environment"]}
    return config.load(environ=variables | SECRETS)


def _settings_on_cloud_run() -> Settings:
    (container,) = _cloud_run()["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value", SECRETS.get(one["name"], "")) for one in container["env"]}
    return config.load(environ=variables)


def _settings_on_azure(kind: str = "containers") -> Settings:
    container = _container_group()["properties"][kind][0]["properties"]
    variables = {one["name"]: one.get("value") or one["secureValue"] for one in container["environmentVariables"]}
    return config.load(environ=variables)


# -- AWS ------------------------------------------------------------------------------------------------------------


def test_cfn_lint_takes_the_stack_and_what_the_api_is_sent(tmp_path: Path) -> None:
    service = filled(DEPLOY / "aws" / "service-definition.json", AWS)
    resources = {
        "Task": {"Type": "AWS::ECS::TaskDefinition", "Properties": as_resource(_task_definition())},
        "Service": {"Type": "AWS::ECS::Service", "Properties": as_resource(service)},
    }
    sent = tmp_path / "sent.json"
    sent.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}))
    wrong = tmp_path / "wrong.json"
    wrong.write_text(sent.read_text().replace('"StopTimeout"', '"StopTimeOut"'))
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--format", "parseable", "--"]
    found = subprocess.run(
        [*command, str(DEPLOY / "aws" / "ecs.yaml"), str(sent), str(wrong)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    (line,) = found.stdout.strip().splitlines()
    assert line.startswith(str(wrong))
    assert "StopTimeOut" in line


def test_the_stack_makes_what_the_api_is_sent() -> None:
    resources = cloud_formation(DEPLOY / "aws" / "ecs.yaml", _STACK)["Resources"]
    assert resources["TaskDefinition"]["Properties"] == as_resource(_task_definition())
    service = as_resource(filled(DEPLOY / "aws" / "service-definition.json", AWS))
    made = resources["Service"]["Properties"]
    for key in service.keys() - {"DesiredCount", "NetworkConfiguration", "ServiceName"}:
        assert made[key] == service[key]
    network = made["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["AssignPublicIp"] == "DISABLED"
    assert network["SecurityGroups"] == service["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]


def test_on_aws_rights_are_for_single_things_and_the_mesh_has_none() -> None:
    resources = cloud_formation(DEPLOY / "aws" / "ecs.yaml", _STACK)["Resources"]
    assert "Policies" not in resources["TaskRole"]["Properties"]
    assert "ManagedPolicyArns" not in str(resources)
    (policy,) = resources["ExecutionRole"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]:
        assert "*" not in str(statement["Action"])
        assert statement["Resource"] != "*" or statement["Action"] == "ecr:GetAuthorizationToken"


def test_the_load_balancer_sends_public_methods_to_the_router_and_cuts_no_stream() -> None:
    resources = cloud_formation(DEPLOY / "aws" / "ecs.yaml", _STACK)["Resources"]
    (condition,) = resources["GrpcRule"]["Properties"]["Conditions"]
    paths = {path.strip("/*") for path in condition["PathPatternConfig"]["Values"]}
    assert paths == PUBLIC_SERVICES | {"grpc.health.v1.Health"}
    attributes = {one["Key"]: one["Value"] for one in resources["LoadBalancer"]["Properties"]["LoadBalancerAttributes"]}
    assert int(attributes["idle_timeout.timeout_seconds"]) >= 3600
    assert resources["GrpcTargets"]["Properties"]["ProtocolVersion"] == "GRPC"
    # A database that is away for two minutes must not cost all tasks.
    for target in ("HttpTargets", "GrpcTargets"):
        properties = resources[target]["Properties"]
        assert properties["HealthCheckIntervalSeconds"] * properties["UnhealthyThresholdCount"] >= 120


def test_a_task_on_aws_listens_where_the_load_balancer_sends_and_drains_in_time() -> None:
    settings = _settings_on_aws()
    container = _task_definition()["containerDefinitions"][1]
    for role in ("router", "gateway"):
        endpoint = getattr(settings.services, role)
        assert not endpoint.is_loopback
        lifecycle.check_exposure(endpoint.host, settings)
    ports = [one["containerPort"] for one in container["portMappings"]]
    assert ports == [settings.services.gateway.port, settings.services.router.port]
    for role in ("runner", "llm", "storage"):
        assert getattr(settings.services, role).is_loopback
    assert container["stopTimeout"] >= 5 * (settings.drain_timeout_s + 3)
    assert container["healthCheck"]["command"] == ["CMD", "agentmesh", "health", "--live"]
    assert container["readonlyRootFilesystem"] is True
    assert str(settings.data_dir) in [one["containerPath"] for one in container["mountPoints"]]


# -- Google Cloud ---------------------------------------------------------------------------------------------------


def test_the_service_of_cloud_run_has_its_schema_and_no_key_beside() -> None:
    service = _cloud_run()
    jsonschema.validate(service, _schema("cloud_run"))
    json.loads(service["spec"]["template"]["metadata"]["annotations"]["run.googleapis.com/network-interfaces"])
    service["spec"]["template"]["spec"]["timeoutSecond"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(service, _schema("cloud_run"))


def test_on_cloud_run_one_port_is_open_and_instances_always_work() -> None:
    settings = _settings_on_cloud_run()
    template = _cloud_run()["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]
    assert settings.services.gateway.port == port["containerPort"]
    assert not settings.services.gateway.is_loopback
    lifecycle.check_exposure(settings.services.gateway.host, settings)
    for role in ("router", "runner", "llm", "storage"):
        assert getattr(settings.services, role).is_loopback
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == port["containerPort"]
    assert container["startupProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    annotations = template["metadata"]["annotations"]
    assert annotations["autoscaling.knative.dev/minScale"] == annotations["autoscaling.knative.dev/maxScale"] == "1"
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    assert template["spec"]["timeoutSeconds"] == 3600
    assert 5 * settings.drain_timeout_s < 10


def test_on_cloud_run_without_a_database_nothing_starts() -> None:
    (container,) = _cloud_run()["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    with pytest.raises(config.ConfigError, match="DATABASE_URL"):
        config.load(environ=variables)
    with pytest.raises(config.ConfigError, match="production refuses SQLite"):
        config.load(environ={**variables, "DATABASE_URL": "sqlite:///./file.db", "REDIS_URL": SECRETS["REDIS_URL"]})


def test_on_cloud_run_each_instance_names_its_runner_anew(tmp_path: Path) -> None:
    (container,) = _cloud_run()["spec"]["template"]["spec"]["containers"]
    command = tmp_path / "agentmesh"
    command.write_text('#!/bin/sh\necho "$AGENTMESH_RUNNER__NAME $*"\n')
    command.chmod(0o755)
    names = set()
    for _ in range(2):
        said = subprocess.run(
            [*container["command"], *container["args"]],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
        name, _, words = said.strip().partition(" ")
        assert words == "up"
        names.add(config.load(environ={"AGENTMESH_RUNNER__NAME": name}).runner.name)
    assert len(names) == 2


# -- Azure ----------------------------------------------------------------------------------------------------------


def test_the_container_group_has_its_schema_and_no_key_beside() -> None:
    group = _container_group()
    jsonschema.validate(group, _schema("container_group"))
    group["properties"]["containers"][0]["properties"]["liveness"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(group, _schema("container_group"))


def test_on_azure_only_envoy_is_reached_and_what_is_secret_is_a_secure_value() -> None:
    settings = _settings_on_azure()
    assert all(
        getattr(settings.services, role).is_loopback for role in ("router", "runner", "llm", "storage", "gateway")
    )
    assert settings.security.authentication
    properties = _container_group()["properties"]
    open_ports = [port["port"] for port in properties["ipAddress"]["ports"]]
    envoy = yaml.safe_load((DEPLOY / "azure" / "envoy.yaml").read_text())["static_resources"]
    assert open_ports == [one["address"]["socket_address"]["port_value"] for one in envoy["listeners"]]
    reached = {
        cluster["name"]: cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"][
            "socket_address"
        ]
        for cluster in envoy["clusters"]
    }
    for role in ("router", "gateway"):
        endpoint = getattr(settings.services, role)
        assert reached[role] == {"address": endpoint.host, "port_value": endpoint.port}
    assert "tls_minimum_protocol_version: TLSv1_2" in (DEPLOY / "azure" / "envoy.yaml").read_text()
    for kind in ("initContainers", "containers"):
        for container in properties[kind]:
            for one in container["properties"].get("environmentVariables", ()):
                assert ("secureValue" in one) == (one["name"] in SECRETS)
    assert 5 * (settings.drain_timeout_s + 3) <= 30


def test_on_azure_the_database_is_migrated_before() -> None:
    (migration,) = _container_group()["properties"]["initContainers"]
    assert migration["properties"]["command"] == ["agentmesh", "migrate", "up"]
    assert not _settings_on_azure("initContainers").database.is_embedded


# -- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [_settings_on_aws, _settings_on_cloud_run, _settings_on_azure])
def test_everywhere_it_is_production_with_logs_on_the_console(settings: Any) -> None:
    loaded: Settings = settings()
    assert loaded.environment == "production"
    assert not loaded.database.create_tables
    assert (loaded.logging.console, loaded.logging.file, loaded.logging.format) == (True, False, "json")
    assert loaded.security.authentication
    assert len(loaded.security.api_keys) == 1


def test_every_shell_script_passes_shellcheck() -> None:
    ignored = {".venv", ".cache", "node_modules", ".git"}
    scripts = [path for path in sorted(ROOT.rglob("*.sh")) if not ignored & set(path.relative_to(ROOT).parts)]
    assert {DEPLOY / cloud / "deploy.sh" for cloud in ("aws", "gcp", "azure")} <= set(scripts)
    command = [str(Path(sys.executable).with_name("shellcheck")), "--external-sources", f"--source-path={ROOT}"]
    found = subprocess.run([*command, *map(str, scripts)], capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout


def test_yaml_is_tidy() -> None:
    folders = [DEPLOY / name for name in ("kubernetes", "aws", "gcp", "azure")]
    rules = (
        "{extends: default, rules: {line-length: {max: 120, allow-non-breakable-inline-mappings: true}, "
        "document-start: disable, comments: {min-spaces-from-content: 1}, indentation: {indent-sequences: true}}}"
    )
    command = [str(Path(sys.executable).with_name("yamllint")), "--strict", "-d", rules, *map(str, folders)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert found.returncode == 0, found.stdout


def test_templates_hold_no_secret() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != "secrets.env":
            text = path.read_text(errors="replace")
            assert not re.search(r"\bsk-[A-Za-z0-9]{8}|BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}", text), path
