"""Read YAML that people wrote, without the parts that surprise or attack: aliases, tags, repeated keys."""

from typing import Any

import yaml

MAX_BYTES = 262_144
MAX_DEPTH = 32


class YamlRefused(ValueError):
    """The text is not acceptable YAML; the message says where and why, and quotes no value."""


class _StrictLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise YamlRefused(f"{_place(event.start_mark)}: aliases are not allowed")
        if self.depth >= MAX_DEPTH:
            raise YamlRefused(f"{_place(event.start_mark)}: nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise YamlRefused(f"{_place(key.start_mark)}: the key is there twice")
                seen.add(str(key.value))
        return node


def parse(content: bytes | str) -> Any:
    """Return the plain values of one YAML document of at most 256 KiB and 32 levels; raise YamlRefused."""
    encoded = content.encode() if isinstance(content, str) else content
    if len(encoded) > MAX_BYTES:
        raise YamlRefused(f"larger than {MAX_BYTES // 1024} KiB")
    try:
        return yaml.load(encoded.decode("utf-8-sig"), Loader=_StrictLoader)  # noqa: S506 - a stricter SafeLoader
    except YamlRefused:
        raise
    except UnicodeDecodeError:
        raise YamlRefused("not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        # Only the problem: the error's whole text quotes the line, which may hold a secret.
        raise YamlRefused(f"{_place(error.problem_mark)}: {error.problem}") from None
    except (yaml.YAMLError, ValueError):
        raise YamlRefused("not YAML: a control character, or a value that its type can't hold") from None


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
