"""Who calls: role tokens between services, task tokens for attempts, tenants for clients."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agentmesh.kit import names
from agentmesh.kit.errors import PermissionDenied, Unauthenticated, WrongState

_REMEMBERED = 4096
_HOLDERS = (*names.ROLES, names.OPERATOR)
_TASK_TOKEN = "task-token"  # noqa: S105 - a label that keys are derived under
_TOKEN_FILE = "service-token"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True)
class TaskClaims:
    """What a task token says: whose attempt it is, and until when (seconds since 1970)."""

    tenant: str
    task_id: str
    attempt: int
    expires_at: float
    scopes: tuple[str, ...] = ("llm", "artifact")

    def check_time(self, now: float) -> None:
        """Raise Unauthenticated if the token is over."""
        if self.expires_at < now:
            raise Unauthenticated("the task token is over", reason="TASK_TOKEN_EXPIRED")


READ, WRITE, MODELS = "read", "write", "models"
ALL_SCOPES = frozenset((READ, WRITE, MODELS))
_READING = ("Get", "List", "Read", "Watch")


def scope_of(method: str) -> str:
    """Return the scope that a client needs for a method of a public service."""
    return READ if method.startswith(_READING) else WRITE


@dataclass(frozen=True, slots=True)
class Grant:
    """Whose an API key is, and what may be done with it."""

    tenant: str
    scopes: frozenset[str] = ALL_SCOPES


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `role` is empty for clients; `task` is set for calls on behalf of an attempt."""

    tenant: str = names.DEFAULT_TENANT
    role: str = ""
    task: TaskClaims | None = None
    key_id: str = ""
    """The virtual key that the gateway was shown, if it was one."""
    scopes: frozenset[str] = ALL_SCOPES

    def check(self, scope: str) -> None:
        """Raise PermissionDenied if the caller may not do what this scope is for."""
        if scope not in self.scopes:
            raise PermissionDenied(f"this API key lacks the scope {scope}", reason="SCOPE_MISSING")


@dataclass(frozen=True)
class Keyring:
    """Derives everything that services show each other from the one secret of the mesh.

    Role tokens and the key of task tokens are HMAC-SHA256 of the secret under different labels, so that
    knowing one gives none of the others. What was made of one of the `others` is accepted as well: the secret is
    replaced without an outage by way of processes that know both.
    """

    secret: str = field(repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)

    def role_token(self, role: str) -> str:
        """Return the token that a service of this role shows."""
        return _role_token(role, _derive(self.secret, "role:" + role))

    def role_of(self, token: str) -> str | None:
        """Return the role that a token proves, or None."""
        role = token.partition(".")[0]
        if role not in _HOLDERS:
            return None
        shown = token.encode()
        good = [
            hmac.compare_digest(shown, _role_token(role, _derive(secret, "role:" + role)).encode())
            for secret in (self.secret, *self.others)
        ]
        return role if any(good) else None

    def sign(self, claims: TaskClaims) -> str:
        """Write a task token."""
        fields = (claims.tenant, claims.task_id, str(claims.attempt), f"{claims.expires_at:.3f}", *claims.scopes)
        body = "\n".join(fields).encode()
        return f"{_b64(body)}.{_b64(hmac.digest(_derive(self.secret, _TASK_TOKEN), body, 'sha256'))}"

    def read(self, token: str) -> TaskClaims:
        """Read a task token, over or not; raise Unauthenticated if it is forged."""
        try:
            body_text, mac_text = token.split(".")
            body, mac = _unb64(body_text), _unb64(mac_text)
        except ValueError as error:
            raise Unauthenticated("the task token is malformed", reason="TASK_TOKEN_INVALID") from error
        keys = (_derive(secret, _TASK_TOKEN) for secret in (self.secret, *self.others))
        if not any(hmac.compare_digest(mac, hmac.digest(key, body, "sha256")) for key in keys):
            raise Unauthenticated("the task token is not ours", reason="TASK_TOKEN_INVALID")
        tenant, task_id, attempt, expires_at, *scopes = body.decode().split("\n")
        return TaskClaims(tenant, task_id, int(attempt), float(expires_at), tuple(scopes))


@lru_cache(256)
def _derive(secret: str, label: str) -> bytes:
    return hmac.digest(secret.encode(), label.encode(), "sha256")


@lru_cache(64)
def _role_token(role: str, key: bytes) -> str:
    return f"{role}.{key.hex()}"


@dataclass(frozen=True)
class Access:
    """Who may call a service: `roles` of the mesh, or clients if `public`, or anyone if `open`."""

    roles: frozenset[str] = frozenset()
    public: bool = False
    open: bool = False

    @staticmethod
    def internal(*roles: str) -> "Access":
        """Let only services of these roles in."""
        return Access(roles=frozenset(roles))


OPEN = Access(open=True)
PUBLIC = Access(public=True)


class Authenticator:
    """Turns a call's metadata into an identity, before anything else is done for the call.

    `api_keys` maps the SHA-256 of a client's key, in hexadecimal, to what it is good for. With `anonymous` set
    (development on loopback), a client without a key is the tenant `default`. `now` tells seconds since 1970.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        anonymous: bool,
        api_keys: Mapping[str, Grant] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keyring = keyring
        self._anonymous = anonymous
        self._api_keys = dict(api_keys or {})
        self._now = now
        self._default = Identity()
        # An attempt, and a client behind the gateway, shows the same at each of its calls; refusals are not remembered.
        self._service = lru_cache(_REMEMBERED)(self._service_that_shows)

    def identify(self, metadata: Mapping[str, str], access: Access) -> Identity:
        """Return who calls, or raise Unauthenticated or PermissionDenied."""
        if access.open:
            return self._default
        credential = metadata.get(names.AUTHORIZATION, "")
        if access.public:
            return self._client(_bearer_of(credential))
        shown = (metadata.get(names.TASK_TOKEN), metadata.get(names.TENANT, ""), metadata.get(names.VIRTUAL_KEY, ""))
        identity = self._service(access.roles, credential, *shown)
        if identity.task is not None:
            identity.task.check_time(self._now())
        return identity

    def _service_that_shows(
        self, roles: frozenset[str], credential: str, task_token: str | None, tenant: str, key_id: str
    ) -> Identity:
        """Return which service of these roles calls, and on whose behalf; its task token may be over."""
        bearer = _bearer_of(credential)
        role = self._keyring.role_of(bearer) if bearer else None
        if role is None:
            raise Unauthenticated("this service takes calls from services of the mesh only")
        if role not in roles:
            raise PermissionDenied("this service of the mesh may not call here")
        if task_token:
            claims = self._keyring.read(task_token)
            return Identity(tenant=claims.tenant, role=role, task=claims)
        if role == names.GATEWAY:
            # It has checked its client's credential itself. From anybody else the key means nothing.
            return Identity(tenant=tenant, role=role, key_id=key_id)
        if role == names.OPERATOR:
            return Identity(tenant=tenant, role=role)
        if role == names.RUNNER:
            raise Unauthenticated("a runner must show a task token", reason="TASK_TOKEN_MISSING")
        return Identity(tenant="", role=role)

    def _client(self, key: str) -> Identity:
        if key:
            grant = self._api_keys.get(hashlib.sha256(key.encode()).hexdigest())
            if grant is not None:
                return Identity(tenant=grant.tenant, scopes=grant.scopes)
            if not self._anonymous:
                raise Unauthenticated("the API key is not known")
        if not self._anonymous:
            raise Unauthenticated("an API key is needed: send it as 'authorization: Bearer KEY'")
        return self._default


def _bearer_of(credential: str) -> str:
    return credential.removeprefix("Bearer ").strip()


def load_or_create_secret(data_dir: Path) -> str:
    """Read the mesh's secret from the data folder, making it (mode 0600) if it isn't there yet."""
    path = data_dir / _TOKEN_FILE
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        return _secret_in(path)
    draft = data_dir / f"{_TOKEN_FILE}.{secrets.token_hex(8)}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        # Whole or not at all: another service may look for it at this moment.
        os.link(draft, path)
    except FileExistsError:
        pass  # another was first, and its secret counts
    finally:
        draft.unlink()
    return _secret_in(path)


def _secret_in(path: Path) -> str:
    secret = path.read_text().strip()
    if not secret:
        raise WrongState(f"{path} is empty: remove it, and agentmesh makes a new one", reason="TOKEN_EMPTY")
    return secret


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
