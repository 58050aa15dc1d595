from pathlib import Path

import pytest

from agentmesh.kit import config
from agentmesh.kit.config import ConfigError

PRODUCTION = Path(__file__).resolve().parents[3] / "configs" / "environments" / "production.yaml"


def secret(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_secrets_come_from_files_without_the_white_space_round_them(tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL_FILE": secret(tmp_path, "db", "postgresql://u:p@h/d\n"),
        "REDIS_URL_FILE": secret(tmp_path, "redis", "redis://h:6379/0\n"),
        "OPENAI_API_KEY_FILE": secret(tmp_path, "key", " sk-1\n"),
        "ANTHROPIC_API_KEY_FILE": secret(tmp_path, "none", "\n"),
        "AGENTMESH_SERVICES__TOKEN_FILE": secret(tmp_path, "token", "secret-of-the-mesh"),
        "AGENTMESH_LOGGING__FILE": "false",  # a key whose name ends so
    }
    settings = config.load(PRODUCTION, environ=environ)
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.services.token is not None
    assert settings.services.token.get_secret_value() == "secret-of-the-mesh"
    assert settings.logging.file is False
    (provider, _offline) = settings.llm.providers
    assert (provider.name, provider.api_key and provider.api_key.get_secret_value()) == ("openai", "sk-1")


def test_what_can_not_be_read_or_is_given_twice_is_refused_by_name(tmp_path: Path) -> None:
    environ = {
        "DATABASE_URL": "postgresql://h/d",
        "DATABASE_URL_FILE": secret(tmp_path, "db", "postgresql://h/e"),
        "REDIS_URL_FILE": str(tmp_path / "nowhere"),
        "OPENAI_API_KEY_FILE": secret(tmp_path, "large", "x" * 70_000),
    }
    with pytest.raises(ConfigError) as refused:
        config.load(PRODUCTION, environ=environ)
    assert refused.value.errors == (
        "DATABASE_URL_FILE: DATABASE_URL is set as well; set one of them",
        f"OPENAI_API_KEY_FILE: {tmp_path}/large can't be read: too large",
        f"REDIS_URL_FILE: {tmp_path}/nowhere can't be read: No such file or directory",
    )


def test_files_that_are_named_for_other_programs_are_none_of_ours(tmp_path: Path) -> None:
    environ = {"POSTGRES_PASSWORD_FILE": "/nowhere", "DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://h"}
    assert config.load(PRODUCTION, environ=environ).environment == "production"
