"""Configuration: which source wins, what is refused and in which words, and that no secret shows."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import agentmesh
from agentmesh.kit.config import ConfigError, Settings, database_path, describe, json_schema, load, reload
from agentmesh.kit.service_settings import Endpoint

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "environments"
POSTGRES = "postgresql://mesh:canary-password@db:5432/mesh"
CANARY = "canary-3f8a1c"


def write(folder: Path, body: str, environment: str = "development") -> Path:
    lines = "".join(f"  {line}\n" for line in body.splitlines())
    file = folder / f"{environment}.yaml"
    file.write_text(f"environment: {environment}\n{environment}:\n{lines}", encoding="utf-8")
    return file


def loaded(folder: Path, body: str = "", overrides: dict[str, object] | None = None, /, **environ: str) -> Settings:
    return load(write(folder, body), environ=environ, overrides=overrides)


def faults(folder: Path, body: str = "", overrides: dict[str, object] | None = None, /, **environ: str) -> list[str]:
    """The error lines, with the file's folder cut off."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, body, overrides, **environ)
    assert all(error in str(caught.value) for error in caught.value.errors)
    return [error.replace(f"{folder}{os.sep}", "") for error in caught.value.errors]


# --- which source wins


def test_file_beats_defaults_variables_beat_the_file_and_overrides_beat_all(tmp_path: Path) -> None:
    body = "tasks:\n  max_attempts: 5"
    variable = {"AGENTMESH_TASKS__MAX_ATTEMPTS": "7"}
    assert loaded(tmp_path).tasks.max_attempts == 3
    assert loaded(tmp_path, body).tasks.max_attempts == 5
    assert loaded(tmp_path, body, **variable).tasks.max_attempts == 7
    assert loaded(tmp_path, body, {"tasks.max_attempts": 9}, **variable).tasks.max_attempts == 9


def test_setting_one_key_keeps_its_neighbours(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "database:\n  pool_size: 7", AGENTMESH_DATABASE__ECHO="true")
    assert (settings.database.pool_size, settings.database.echo) == (7, True)


def test_the_guides_variables_beat_the_file_and_ours_beat_the_guides(tmp_path: Path) -> None:
    body = 'database:\n  url: "sqlite:///./file.db"\ncache:\n  url: "redis://file"'
    settings = loaded(tmp_path, body, DATABASE_URL=POSTGRES, REDIS_URL="redis://guide")
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == POSTGRES
    assert settings.cache.url is not None
    assert settings.cache.url.get_secret_value() == "redis://guide"
    settings = loaded(tmp_path, body, DATABASE_URL=POSTGRES, AGENTMESH_DATABASE__URL="sqlite:///ours.db")
    assert database_path(settings) == Path("ours.db")


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DATABASE_URL="", OPENAI_API_KEY="", AGENTMESH_TASKS__MAX_ATTEMPTS=" ")
    assert settings == loaded(tmp_path)


def test_variables_of_clients_and_of_kubernetes_are_not_settings(tmp_path: Path) -> None:
    others = {
        "AGENTMESH_ADDRESS": "router:50051",
        "AGENTMESH_TOKEN": CANARY,
        "AGENTMESH_CONFIG": "elsewhere.yaml",
        "AGENTMESH_PORT": "tcp://10.0.0.1:50051",
        "AGENTMESH_ROUTER_SERVICE_HOST": "10.0.0.1",
        "AGENTMESH_ROUTER_SERVICE_PORT_GRPC": "50051",
        "AGENTMESH_ROUTER_PORT_50051_TCP_ADDR": "10.0.0.1",
    }
    assert loaded(tmp_path, **others) == loaded(tmp_path)
    assert loaded(tmp_path, AGENTMESH_DATA_DIR="/srv/mesh").data_dir == Path("/srv/mesh")


def test_variables_hold_lists_mappings_null_and_text_that_looks_like_numbers(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "services:\n  token: abc",
        AGENTMESH_RUNNER__AGENTS="[a.py, b]",
        AGENTMESH_LLM__PROVIDERS='[{name: local, base_url: "http://127.0.0.1:1/v1/", models: "1.10, x"}]',
        AGENTMESH_SERVICES__TOKEN="null",
        AGENTMESH_RUNNER__NAME="007",
    )
    assert settings.runner.agents == (Path("a.py"), Path("b"))
    assert settings.llm.providers[0].models == ("1.10", "x")
    assert settings.llm.providers[0].base_url == "http://127.0.0.1:1/v1"
    assert settings.services.token is None
    assert settings.runner.name == "007"


# --- which file


def test_without_a_path_the_variable_then_the_working_directory_then_the_package_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).logging.level == "DEBUG"
    folder = tmp_path / "configs" / "environments"
    folder.mkdir(parents=True)
    write(folder, "tasks:\n  max_attempts: 4")
    assert load(environ={}).tasks.max_attempts == 4
    other = write(tmp_path, "tasks:\n  max_attempts: 6")
    assert load(environ={"AGENTMESH_CONFIG": str(other)}).tasks.max_attempts == 6
    assert load(write(tmp_path, ""), environ={"AGENTMESH_CONFIG": "nowhere"}).tasks.max_attempts == 3


def test_an_installed_package_brings_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "agentmesh"
    (package / "configs" / "environments").mkdir(parents=True)
    write(package / "configs" / "environments", "tasks:\n  max_attempts: 9")
    monkeypatch.setattr(agentmesh, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).tasks.max_attempts == 9


def test_dotenv_is_read_from_the_working_directory_below_the_real_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AGENTMESH_")]:
        monkeypatch.delenv(name)
    for name in ("DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.setenv("AGENTMESH_TASKS__MAX_ATTEMPTS", "8")
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("AGENTMESH_TASKS__MAX_ATTEMPTS=2\nAGENTMESH_TASKS__QUEUE_LIMIT=11\n")
    settings = load()
    assert (settings.environment, settings.tasks.max_attempts, settings.tasks.queue_limit) == ("test", 8, 11)
    assert load(environ={"ENVIRONMENT": "test"}).tasks.queue_limit == 10_000


def test_the_shipped_example_of_dotenv_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(environ={})
    for name in [name for name in os.environ if name.startswith("AGENTMESH_")]:
        monkeypatch.delenv(name)
    for name in ("ENVIRONMENT", "DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes((SHIPPED.parents[1] / ".env.example").read_bytes())
    assert load() == expected


def test_development_is_loopback_without_credentials() -> None:
    settings = load(SHIPPED / "development.yaml", environ={})
    assert settings.environment == "development"
    assert (settings.debug, settings.hot_reload, settings.auto_restart) == (True, True, True)
    assert (settings.database.echo, settings.database.create_tables) == (True, True)
    assert (settings.api.host, settings.api.port, settings.api.reload) == ("localhost", 8000, True)
    assert (settings.security.authentication, settings.security.reflection) == (False, True)
    services = settings.services
    endpoints: list[Endpoint] = [
        services.router, services.runner, services.llm, services.storage, services.gateway
    ]  # fmt: skip
    assert [endpoint.port for endpoint in endpoints] == [50051, 50052, 50053, 50054, 8000]
    assert [endpoint.metrics_port for endpoint in endpoints] == [9090, 9091, 9092, 9093, 9094]
    assert all(endpoint.is_loopback for endpoint in endpoints)


def test_production_takes_the_guides_keys_and_demands_credentials() -> None:
    environ = {"ENVIRONMENT": "production", "DATABASE_URL": POSTGRES, "REDIS_URL": "redis://redis:6379/0"}
    settings = load(SHIPPED / "production.yaml", environ=environ)
    database = settings.database
    assert not database.is_embedded
    assert (database.pool_size, database.max_overflow, database.pool_recycle) == (20, 30, 3600)
    assert (settings.logging.file, settings.logging.format, settings.api.workers) == (True, "json", 4)
    assert (settings.security.authentication, settings.security.reflection) == (True, False)
    assert not settings.services.gateway.is_loopback
    with pytest.raises(ConfigError, match="not a SQLite file"):
        database_path(settings)


def test_the_test_environment_loads() -> None:
    settings = load(SHIPPED / "test.yaml", environ={"ENVIRONMENT": "test"})
    assert (settings.environment, settings.hot_reload, settings.cache.backend) == ("test", False, "memory")


def test_the_guides_own_development_file_loads(tmp_path: Path) -> None:
    body = 'database:\n  url: "sqlite:///./dev.db"\n  echo: true\nlogging:\n  level: "debug"\napi:\n  workers: 1'
    settings = loaded(tmp_path, body)
    assert database_path(settings) == Path("dev.db")
    assert settings.logging.level == "DEBUG"


# --- substitution


def test_strings_take_variables_and_defaults_and_a_double_dollar_stays(tmp_path: Path) -> None:
    body = (
        'tasks:\n  max_attempts: "${ATTEMPTS:-4}"\n'
        'llm:\n  providers:\n    - {name: a, base_url: "http://${HOST}/v1", models: ["${MODEL:-}$${M}"]}'
    )
    settings = loaded(tmp_path, body, HOST="localhost:1")
    assert settings.tasks.max_attempts == 4
    assert settings.llm.providers[0].base_url == "http://localhost:1/v1"
    assert settings.llm.providers[0].models == ("${M}",)
    assert loaded(tmp_path, body, HOST="h", ATTEMPTS="6").tasks.max_attempts == 6


def test_an_unset_variable_is_named_with_its_key_and_only_that(tmp_path: Path) -> None:
    body = 'database:\n  url: "${DB}"\nllm:\n  providers:\n    - {name: a, base_url: "${HOST}", models: [m]}'
    advice = "is not set; set it or write"
    assert faults(tmp_path, body) == [
        f"development.yaml: development.database.url: the environment variable DB {advice} ${{DB:-default}}",
        "development.yaml: development.llm.providers[0].base_url: the environment variable HOST "
        f"{advice} ${{HOST:-default}}",
    ]


def test_an_unset_variable_under_a_key_set_elsewhere_is_no_error(tmp_path: Path) -> None:
    settings = loaded(tmp_path, 'database:\n  url: "${DB}"', {"database.url": "sqlite:///x.db"})
    assert database_path(settings) == Path("x.db")


def test_a_substituted_value_is_not_substituted_again(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'data_dir: "${DIR}"', DIR="${OTHER}").data_dir == Path("${OTHER}")


# --- what is refused, and in which words


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("database:\n  pool_sise: 3", "database.pool_sise: unknown key; did you mean pool_size?"),
        ("databse: {}", "databse: unknown key; did you mean database?"),
        (
            "services:\n  tls:\n    qqq: 1",
            "services.tls.qqq: unknown key; known: cert, key, ca, verify_clients, in_front",
        ),
        (
            "llm:\n  providers: [{name: a, base_url: 'http://h', models: m, pool: {per_hots: 1}}]",
            "llm.providers[0].pool.per_hots: unknown key; did you mean per_host?",
        ),
        ("environment: x", "environment: unknown key; ENVIRONMENT chooses the environment"),
        ("api:\n  port: 70000", "api.port: must be less than or equal to 65535"),
        ("database: 3", "database: must be a mapping of keys"),
        ("services: 3\napi:\n  port: 1", "services: must be a mapping of keys"),
        ("llm:\n  providers: {a: 1}", "llm.providers: must be a list"),
        ("data_dir: [1]", "data_dir: must be a path"),
        ("llm:\n  providers: [{kind: offline, models: m}]", "llm.providers[0].name: is needed"),
        ("cache:\n  backend: disk", "cache.backend: must be 'memory' or 'redis'"),
        ("cache:\n  backend: redis", "cache.url: is needed for backend redis; set it or REDIS_URL"),
        ("database:\n  url: mysql://h", "database.url: must start with sqlite:/// or postgresql://"),
        (
            "database:\n  url: sqlite://dev.db",
            "database.url: must name a file: sqlite:///relative.db or sqlite:////absolute.db",
        ),
        ("logging:\n  file: 3", "logging.file: must be true, false or a path"),
        ("drain_timeout_s: .inf", "drain_timeout_s: must be a finite number"),
        ("services:\n  tls:\n    cert: a.pem", "services.tls.key: cert and key are needed together"),
        ("services:\n  tls:\n    verify_clients: true", "services.tls.verify_clients: needs cert, key and ca"),
        (
            "services:\n  router:\n    host: a:1",
            "services.router.host: must be a host name or an IP address, without a port",
        ),
        (
            "services:\n  router:\n    address: 'a:1, http://b'",
            "services.router.address: must be host:port, or several of them, each host a name or an address",
        ),
        ("runner:\n  heartbeat_s: 14", "runner.heartbeat_s: must be at most half of lease_ttl_s"),
        (
            "runner:\n  lease_ttl_s: 20",
            "runner.lease_ttl_s: must not be more than tasks.lease_ttl_s, or two runners run one task",
        ),
        (
            "llm:\n  default_model: gpt",
            "llm.default_model: is in no provider's models; known: offline",
        ),
        (
            "llm:\n  providers: [{name: a, models: [m]}]",
            "llm.providers[0].base_url: is needed for kind openai_compatible",
        ),
        (
            "llm:\n  providers: [{name: a, base_url: 'http://h'}]",
            "llm.providers[0].completion_models: models, or one of the other lists of models, must name at least one",
        ),
        (
            "llm:\n  providers: [{name: a, base_url: 'http://u:p@h', models: [m]}]",
            "llm.providers[0].base_url: must hold no user, query or fragment; a key belongs in api_key",
        ),
        (
            "llm:\n  providers: [{name: a, kind: anthropic, models: [m], embedding_models: [e]}]",
            "llm.providers[0].embedding_models: must be empty for kind anthropic, which has none of them",
        ),
        (
            "llm:\n  providers: [{name: offline, base_url: 'http://h', models: [m]}]",
            "llm.providers: each provider needs a name of its own; `offline` belongs to kind offline",
        ),
    ],
)
def test_a_bad_key_is_reported_once_with_file_and_path(tmp_path: Path, body: str, line: str) -> None:
    assert faults(tmp_path, body) == [f"development.yaml: development.{line}"]


def test_all_errors_are_reported_at_once_each_with_its_source(tmp_path: Path) -> None:
    lines = faults(
        tmp_path,
        "api:\n  port: x\ntasks:\n  max_attempts: 0",
        {"services.roter.port": 1},
        AGENTMESH_DATABASE__POOL_SISE="3",
        AGENTMESH_LOGING__LEVEL="INFO",
        AGENTMESH_DATABASE="x",
        AGENTMESH_RUNNER__AGENTS="[a",
    )
    assert {": ".join(line.split(": ")[:2]) for line in lines} == {
        "development.yaml: development.api.port",
        "development.yaml: development.tasks.max_attempts",
        "override: development.services.roter",
        "AGENTMESH_DATABASE: development.database",
        "AGENTMESH_DATABASE__POOL_SISE: development.database.pool_sise",
        "AGENTMESH_LOGING__LEVEL: development.loging",
        "AGENTMESH_RUNNER__AGENTS: development.runner.agents",
    }


def test_an_error_names_the_variable_that_set_the_key(tmp_path: Path) -> None:
    assert faults(tmp_path, "api:\n  port: 1", AGENTMESH_API__PORT="99999") == [
        "AGENTMESH_API__PORT: development.api.port: must be less than or equal to 65535"
    ]
    assert faults(tmp_path, AGENTMESH_ENVIRONMENT="production") == [
        "AGENTMESH_ENVIRONMENT: development.environment: unknown key; ENVIRONMENT chooses the environment"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environment: development\ndevelopment: {}\nproduction: {}", "production: unknown key; known: "),
        ("development: {}", "environment: must name the section to use, such as development"),
        ("environment: ../x", "environment: must name the section to use, such as development"),
        ("- 1", "must be a mapping with the keys environment and, say, development"),
        ("environment: development\ndevelopment: 3", "development: must be a mapping of keys"),
        ("environment: test\ntest: {}", "environment: is test, but ENVIRONMENT asks for development"),
        ("a: &x 1\nb: *x", "line 2, column 4: aliases are not allowed"),
        ("a: 1\na: 2", "line 2, column 1: the key is there twice"),
        ("a: !!python/name:os.system x", "line 1, column 4: could not determine a constructor for the tag"),
        ("a: [" * 40, "nested more than 32 levels deep"),
        ("[" * 200_000, "nested more than 32 levels deep"),
        ("a: 2020-99-99", "not YAML: a control character, or a value that its type can't hold"),
        ("a: \x00", "not YAML: a control character, or a value that its type can't hold"),
        ("#" * 262_145, "larger than 256 KiB"),
        (f"token: '{CANARY}", "found unexpected end of stream"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load(file, environ={"ENVIRONMENT": "development"})
    assert len(caught.value.errors) == 1
    assert caught.value.errors[0].startswith(f"{file}: ")
    assert message in caught.value.errors[0]
    assert CANARY not in str(caught.value)


def test_a_missing_file_and_an_unknown_environment_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load(Path("nowhere.yaml"), environ={})
    with pytest.raises(ConfigError, match=r"no configs/environments/stagin\.yaml; create it or set"):
        load(environ={"ENVIRONMENT": "stagin"})
    with pytest.raises(ConfigError, match="ENVIRONMENT: must be a short lower-case name"):
        load(environ={"ENVIRONMENT": "../../etc/x"})


@pytest.mark.parametrize("body", ["", 'database:\n  url: "sqlite:///x.db"'])
def test_production_refuses_sqlite_unless_it_is_allowed(tmp_path: Path, body: str) -> None:
    file = write(tmp_path, body, "production")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    expected = f"{file}: production.database.url: production refuses SQLite; set DATABASE_URL to"
    assert expected in str(caught.value)
    assert load(file, environ={"DATABASE_URL": POSTGRES}).environment == "production"
    assert load(file, environ={"AGENTMESH_DATABASE__ALLOW_EMBEDDED": "true"}).database.is_embedded


# --- what the settings say


def test_a_process_need_not_be_told_of_what_it_does_not_use() -> None:
    production = Path(__file__).resolve().parents[2] / "configs" / "environments" / "production.yaml"
    with pytest.raises(ConfigError) as refused:
        load(production, environ={})
    assert [line.partition(": ")[2].partition(":")[0] for line in refused.value.errors] == [
        "production.database.url",
        "production.cache.url",
    ]
    gateway = load(production, environ={}, unused=("database.url", "cache.url"))
    assert (gateway.database.url, gateway.cache.backend, gateway.cache.url) == (None, "memory", None)
    assert reload(gateway) == gateway
    with pytest.raises(ConfigError, match="REDIS_URL"):
        load(production, environ={}, unused=("database.url",))


def test_a_cache_in_memory_needs_no_address_of_redis() -> None:
    production = Path(__file__).resolve().parents[2] / "configs" / "environments" / "production.yaml"
    environ = {"DATABASE_URL": "postgresql://h/d", "AGENTMESH_CACHE__BACKEND": "memory"}
    assert load(production, environ=environ).cache.url is None


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        settings.debug = True
    with pytest.raises(ValidationError, match="frozen"):
        settings.services.router.port = 1


def test_the_database_lies_in_the_data_folder_unless_a_url_says_otherwise(tmp_path: Path) -> None:
    assert database_path(loaded(tmp_path)) == Path(".agentmesh/agentmesh.db")
    assert database_path(loaded(tmp_path, "", {"data_dir": tmp_path})) == tmp_path / "agentmesh.db"
    assert database_path(loaded(tmp_path, DATABASE_URL="sqlite:////var/x.db")) == Path("/var/x.db")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("host: 10.0.0.1\nport: 7", ("10.0.0.1:7",)),
        ("host: 0.0.0.0", ("127.0.0.1:50051",)),
        ("host: '::1'", ("[::1]:50051",)),
        ("address: router.mesh", ("router.mesh:50051",)),
        ("address: 'a:1, b, [::2]:3'", ("a:1", "b:50051", "[::2]:3")),
        ("address: [a:1, '[::2]']", ("a:1", "[::2]:50051")),
    ],
)
def test_addresses_are_what_others_connect_to(tmp_path: Path, body: str, expected: tuple[str, ...]) -> None:
    lines = "".join(f"\n    {line}" for line in body.splitlines())
    assert loaded(tmp_path, f"services:\n  router:{lines}").services.router.addresses == expected


def test_an_endpoint_listens_on_its_host_and_port(tmp_path: Path) -> None:
    router = loaded(tmp_path, "", {"services.router.host": "::", "services.router.port": 0}).services.router
    assert (router.listen, router.metrics_listen, router.is_loopback) == ("[::]:0", "[::]:9090", False)


def test_the_gateway_and_the_api_always_agree_and_the_gateway_wins(tmp_path: Path) -> None:
    body = "api:\n  host: localhost\n  port: 8001"
    for environ, port in [({}, 8001), ({"AGENTMESH_SERVICES__GATEWAY__PORT": "9"}, 9)]:
        settings = loaded(tmp_path, body, **environ)
        assert (settings.api.port, settings.services.gateway.port) == (port, port)
        assert settings.services.gateway.host == "localhost"
    settings = loaded(tmp_path, "", {"services.gateway.port": 12})
    assert (settings.api.port, settings.services.gateway.port) == (12, 12)


def test_a_runner_keeps_the_lease_that_tasks_have(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "tasks:\n  lease_ttl_s: 12")
    assert settings.runner.lease_ttl_s == 12


# --- model providers


def test_without_a_key_the_offline_model_answers(tmp_path: Path) -> None:
    llm = loaded(tmp_path).llm
    assert ([provider.kind for provider in llm.providers], llm.default_model) == (["offline"], "offline")


def test_a_key_alone_brings_openai_with_the_offline_provider_last(tmp_path: Path) -> None:
    llm = loaded(tmp_path, OPENAI_API_KEY=CANARY).llm
    assert [provider.name for provider in llm.providers] == ["openai", "offline"]
    assert llm.providers[0].base_url == "https://api.openai.com/v1"
    assert llm.providers[0].api_key is not None
    assert llm.providers[0].api_key.get_secret_value() == CANARY
    assert llm.default_model == llm.providers[0].models[0]


def test_a_local_server_needs_only_its_address_and_a_model(tmp_path: Path) -> None:
    url = "http://127.0.0.1:11434/v1"
    llm = loaded(tmp_path, OPENAI_BASE_URL=url, AGENTMESH_LLM__DEFAULT_MODEL="llama3.2").llm
    assert (llm.providers[0].base_url, llm.providers[0].api_key) == (url, None)
    assert (llm.default_model, llm.providers[0].models[0]) == ("llama3.2", "llama3.2")


def test_a_key_alone_brings_anthropic_with_the_offline_provider_last(tmp_path: Path) -> None:
    llm = loaded(tmp_path, ANTHROPIC_API_KEY=CANARY).llm
    assert [(provider.name, provider.kind) for provider in llm.providers] == [
        ("anthropic", "anthropic"),
        ("offline", "offline"),
    ]
    assert llm.providers[0].base_url == "https://api.anthropic.com/v1"
    assert llm.providers[0].api_key is not None
    assert llm.providers[0].api_key.get_secret_value() == CANARY
    assert llm.default_model == llm.providers[0].models[0]
    assert llm.default_model.startswith("claude-")


@pytest.mark.parametrize(
    ("chosen", "owner"), [("gpt-new", "openai"), ("claude-new", "anthropic"), ("claude-opus-5-5", "anthropic")]
)
def test_with_both_keys_the_default_model_belongs_to_whom_its_name_says(
    tmp_path: Path, chosen: str, owner: str
) -> None:
    environ = {"OPENAI_API_KEY": CANARY, "ANTHROPIC_API_KEY": CANARY}
    llm = loaded(tmp_path, **environ).llm
    assert [provider.name for provider in llm.providers] == ["openai", "anthropic", "offline"]
    assert llm.default_model == llm.providers[0].models[0]
    llm = loaded(tmp_path, AGENTMESH_LLM__DEFAULT_MODEL=chosen, **environ).llm
    assert [provider.name for provider in llm.providers if chosen in provider.models] == [owner]
    assert llm.default_model == chosen


def test_a_model_of_nobodys_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, ANTHROPIC_API_KEY=CANARY, AGENTMESH_LLM__DEFAULT_MODEL="gpt-4o")
    assert line.startswith("AGENTMESH_LLM__DEFAULT_MODEL: development.llm.default_model: is in no provider's models")


@pytest.mark.parametrize("url", ["http://gateway", "http://gateway/", "http://gateway/v1"])
def test_anthropics_address_may_come_without_its_version(tmp_path: Path, url: str) -> None:
    llm = loaded(tmp_path, ANTHROPIC_API_KEY=CANARY, ANTHROPIC_BASE_URL=url).llm
    assert llm.providers[0].base_url == "http://gateway/v1"
    alone = loaded(tmp_path, ANTHROPIC_BASE_URL=url).llm
    assert [provider.name for provider in alone.providers] == ["offline"]


def test_a_bad_section_beside_a_key_is_an_error_not_a_crash(tmp_path: Path) -> None:
    line = "development.yaml: development.llm: must be a mapping of keys"
    assert line in faults(tmp_path, "llm: 3", OPENAI_API_KEY=CANARY)
    line = "development.yaml: development.llm.default_model: must be a valid string"
    assert faults(tmp_path, "llm:\n  default_model: [a]", OPENAI_API_KEY=CANARY) == [line]


def test_configured_providers_are_not_joined_by_openai(tmp_path: Path) -> None:
    body = "llm:\n  providers:\n    - {name: local, base_url: 'http://h/v1', models: [m]}"
    llm = loaded(tmp_path, body, OPENAI_API_KEY=CANARY).llm
    assert [provider.name for provider in llm.providers] == ["local", "offline"]
    assert llm.default_model == "m"
    assert [p.name for p in loaded(tmp_path, "llm:\n  providers: []", OPENAI_API_KEY=CANARY).llm.providers] == [
        "offline"
    ]


# --- secrets


def test_no_secret_shows_in_text_description_or_errors(tmp_path: Path) -> None:
    environ = {
        "OPENAI_API_KEY": CANARY,
        "ANTHROPIC_API_KEY": CANARY,
        "AGENTMESH_SERVICES__TOKEN": CANARY,
        "DATABASE_URL": f"postgresql://mesh:{CANARY}@db:5432/mesh?password={CANARY}",
        "REDIS_URL": f"redis://:{CANARY}@redis/0",
    }
    settings = loaded(tmp_path, **environ)
    described = describe(settings)
    shown = [repr(settings), str(settings), json.dumps(described), settings.model_dump_json()]
    assert not any(CANARY in text for text in shown)
    assert described["database"]["url"] == "postgresql://**********@db:5432/mesh"
    assert described["cache"]["url"] == "redis://**********@redis/0"
    environ |= {"DATABASE_URL": f"mysql://{CANARY}", "AGENTMESH_SERVICES__TOKEN": f"{CANARY} with spaces"}
    lines = faults(tmp_path, OPENAI_BASE_URL=f"http://u:{CANARY}@[h", **environ)
    assert len(lines) == 3
    assert not any(CANARY in line for line in lines)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///./dev.db", "sqlite:///./dev.db"),
        ("postgresql://db/mesh", "postgresql://db/mesh"),
        (f"postgresql://u:a/{CANARY}@db/mesh", "postgresql://**********"),
        (f"postgresql://u:a?{CANARY}@db/mesh", "postgresql://**********"),
        (f"postgresql://db/mesh?password=a@{CANARY}", "postgresql://**********"),
    ],
)
def test_a_database_url_is_described_without_its_password(tmp_path: Path, url: str, shown: str) -> None:
    assert describe(loaded(tmp_path, DATABASE_URL=url))["database"]["url"] == shown


def test_the_schema_of_a_file_names_every_section_and_is_closed() -> None:
    schema = json_schema()
    section = schema["$defs"]["Settings"]
    assert set(section["properties"]) == set(Settings.model_fields) - {"environment"}
    definitions: dict[str, Any] = schema["$defs"]
    assert all(definition["additionalProperties"] is False for definition in definitions.values())
    assert definitions["Database"]["properties"]["pool_timeout"]["description"].startswith("Seconds to wait")


def test_a_gateway_stands_before_services_that_have_routes(tmp_path: Path) -> None:
    assert set(loaded(tmp_path).services.gateway.behind) == {"router", "runner", "llm", "storage"}
    assert loaded(tmp_path, AGENTMESH_SERVICES__GATEWAY__BEHIND="llm, storage").services.gateway.behind == (
        "llm",
        "storage",
    )
    [fault] = faults(tmp_path, AGENTMESH_SERVICES__GATEWAY__BEHIND="storage")
    assert "must hold router or llm" in fault
