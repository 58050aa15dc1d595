"""Takes variables from files, which is how container platforms hand out secrets: NAME_FILE=/run/secrets/name."""

from collections.abc import Mapping
from pathlib import Path

from agentmesh.kit.config_errors import ConfigError

_SUFFIX = "_FILE"
_MAX_BYTES = 65_536
_NAMES = frozenset(
    {"DATABASE_URL", "REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}
)
_PREFIX = "AGENTMESH_"


def resolved(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the contents of those files that stand for one, without white space round them.

    Which may be so given are those that agentmesh reads itself. An empty file counts as a variable that is not set.
    Raises ConfigError for a file that can't be read, or a variable that is given twice.
    """
    found = {name: text for name, text in variables.items() if not _stands_for(name)}
    errors = []
    for name in variables.keys() - found.keys():
        base = _stands_for(name)
        if base in found:
            errors.append(f"{name}: {base} is set as well; set one of them")
            continue
        try:
            text = _text_of(Path(variables[name]))
        except OSError as error:
            errors.append(f"{name}: {variables[name]} can't be read: {error.strerror or 'too large'}")
        except UnicodeDecodeError:
            errors.append(f"{name}: {variables[name]} is not text")
        else:
            if text:
                found[base] = text
    if errors:
        raise ConfigError(*sorted(errors))
    return found


def _stands_for(name: str) -> str:
    """Return the variable that a name stands for with a file, or nothing; AGENTMESH_LOGGING__FILE is a key itself."""
    base = name.removesuffix(_SUFFIX)
    is_ours = base.startswith(_PREFIX) and not base.endswith("_")
    return base if base != name and (base in _NAMES or is_ours) else ""


def _text_of(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError
    return data.decode().strip()
