import hashlib
import os
import stat
from pathlib import Path

import pytest

from agentmesh.kit import names
from agentmesh.kit.auth import (
    OPEN,
    PUBLIC,
    Access,
    Authenticator,
    Grant,
    Keyring,
    TaskClaims,
    load_or_create_secret,
)
from agentmesh.kit.errors import MeshError, PermissionDenied, Unauthenticated

KEYRING = Keyring("a secret")
CLAIMS = TaskClaims("acme", "task-1", 3, 1000.0)
KEY = "client-key"


def authenticator(*, anonymous: bool) -> Authenticator:
    return Authenticator(
        KEYRING, anonymous=anonymous, api_keys={hashlib.sha256(KEY.encode()).hexdigest(): Grant("acme")}
    )


def bearer(token: str) -> dict[str, str]:
    return {names.AUTHORIZATION: f"Bearer {token}"}


@pytest.mark.parametrize("role", names.ROLES)
def test_a_role_token_proves_its_role_only(role: str) -> None:
    token = KEYRING.role_token(role)
    assert KEYRING.role_of(token) == role
    for other in names.ROLES:
        if other != role:
            assert KEYRING.role_of(f"{other}.{token.partition('.')[2]}") is None
    for wrong in ("", role, token[:-1], token + "0", token.upper(), "é" + token):
        assert KEYRING.role_of(wrong) is None
    assert Keyring("another").role_of(token) is None


def test_a_task_token_brings_its_claims_until_it_is_over() -> None:
    claims = KEYRING.read(KEYRING.sign(CLAIMS))
    assert claims == CLAIMS
    claims.check_time(1000.0)
    with pytest.raises(Unauthenticated) as refused:
        claims.check_time(1000.5)
    assert refused.value.reason == "TASK_TOKEN_EXPIRED"


def test_every_changed_character_of_a_task_token_is_noticed() -> None:
    token = KEYRING.sign(CLAIMS)
    for position, letter in enumerate(token):
        if position == len(token) - 1:
            continue  # its last bits are padding
        changed = token[:position] + ("A" if letter != "A" else "B") + token[position + 1 :]
        with pytest.raises(Unauthenticated):
            KEYRING.read(changed)


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "x", "é.é", "a." + "b" * 43])
def test_garbage_is_no_task_token(token: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        KEYRING.read(token)
    assert refused.value.reason == "TASK_TOKEN_INVALID"


def test_the_secret_is_not_shown_with_the_keyring_and_not_in_its_tokens() -> None:
    secret = "CANARY-SECRET"
    keyring = Keyring(secret)
    assert secret not in repr(keyring)
    assert secret not in keyring.role_token(names.ROUTER) + keyring.sign(CLAIMS)


def test_a_runner_is_whoever_its_task_token_says() -> None:
    metadata = {
        **bearer(KEYRING.role_token(names.RUNNER)),
        names.TASK_TOKEN: KEYRING.sign(TaskClaims("t", "x", 1, 9e9)),
    }
    identity = authenticator(anonymous=True).identify(metadata, Access.internal(names.RUNNER))
    assert (identity.tenant, identity.role) == ("t", names.RUNNER)
    assert identity.task is not None
    assert identity.task.task_id == "x"


def test_a_task_token_that_was_good_before_is_refused_once_it_is_over_and_vouches_for_no_other() -> None:
    now = 999.0
    door = Authenticator(KEYRING, anonymous=False, now=lambda: now)
    access = Access.internal(names.RUNNER)
    runner = bearer(KEYRING.role_token(names.RUNNER))
    good = {**runner, names.TASK_TOKEN: KEYRING.sign(CLAIMS)}
    for _ in range(2):
        assert door.identify(good, access).task == CLAIMS
    with pytest.raises(PermissionDenied):
        door.identify(good, Access.internal(names.ROUTER))
    with pytest.raises(Unauthenticated):
        door.identify({**runner, names.TASK_TOKEN: Keyring("another").sign(CLAIMS)}, access)
    now = 1000.5
    for _ in range(2):
        with pytest.raises(Unauthenticated) as refused:
            door.identify(good, access)
        assert refused.value.reason == "TASK_TOKEN_EXPIRED"


def test_a_secret_is_replaced_by_way_of_processes_that_know_both() -> None:
    old, new = Keyring("old"), Keyring("new")
    between, after = Keyring("old", ("new",)), Keyring("new", ("old",))
    for mine, its in ((old, between), (between, after), (after, new)):
        for shows, looks in ((mine, its), (its, mine)):
            assert looks.role_of(shows.role_token(names.ROUTER)) == names.ROUTER
            assert looks.read(shows.sign(CLAIMS)) == CLAIMS
    assert new.role_of(old.role_token(names.ROUTER)) is None
    with pytest.raises(Unauthenticated):
        new.read(old.sign(CLAIMS))


def test_another_role_is_let_in_without_a_task_and_without_a_tenant() -> None:
    identity = authenticator(anonymous=True).identify(
        bearer(KEYRING.role_token(names.ROUTER)), Access.internal(names.ROUTER)
    )
    assert (identity.tenant, identity.role, identity.task) == ("", names.ROUTER, None)


def test_a_clients_tenant_comes_from_its_key() -> None:
    strict, loose = authenticator(anonymous=False), authenticator(anonymous=True)
    assert strict.identify(bearer(KEY), PUBLIC).tenant == loose.identify(bearer(KEY), PUBLIC).tenant == "acme"
    assert loose.identify({}, PUBLIC).tenant == names.DEFAULT_TENANT
    for metadata in ({}, bearer(""), bearer("wrong"), bearer(KEYRING.role_token(names.ROUTER))):
        with pytest.raises(Unauthenticated):
            strict.identify(metadata, PUBLIC)


def test_an_open_service_looks_at_nothing() -> None:
    assert authenticator(anonymous=False).identify(bearer("garbage"), OPEN).role == ""


def test_a_good_role_at_the_wrong_door_is_denied() -> None:
    with pytest.raises(PermissionDenied):
        authenticator(anonymous=True).identify(bearer(KEYRING.role_token(names.GATEWAY)), Access.internal(names.ROUTER))


def test_the_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    secret = load_or_create_secret(folder)
    assert len(secret) >= 32
    assert load_or_create_secret(folder) == secret
    (file,) = folder.iterdir()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600


def test_an_empty_secret_is_never_used(tmp_path: Path) -> None:
    load_or_create_secret(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("")  # what another process sees between the file's creation and its content
    try:
        secret = load_or_create_secret(tmp_path)
    except MeshError:
        return
    assert secret


def test_only_the_gateway_may_name_the_tenant_of_its_client() -> None:
    named = {names.TENANT: "acme"}
    internal = Access.internal(*names.ROLES)
    gate = authenticator(anonymous=True)
    for role in (names.GATEWAY, names.ROUTER, names.LLM, names.STORAGE):
        identity = gate.identify(bearer(KEYRING.role_token(role)) | named, internal)
        assert identity.tenant == ("acme" if role == names.GATEWAY else "")
    runner = bearer(KEYRING.role_token(names.RUNNER)) | named
    with pytest.raises(Unauthenticated):
        gate.identify(runner, internal)
    theirs = KEYRING.sign(TaskClaims("other", "task-1", 1, 2.0**40))
    assert gate.identify(runner | {names.TASK_TOKEN: theirs}, internal).tenant == "other"
    for outsider in ({}, bearer(KEY), bearer("gateway.00")):
        with pytest.raises(Unauthenticated):
            gate.identify(outsider | named, internal)
    assert gate.identify(named, PUBLIC).tenant == names.DEFAULT_TENANT
