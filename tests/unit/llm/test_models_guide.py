from pathlib import Path

from agentmesh.kit import config
from agentmesh_llm.adapters.anthropic_steering import DEFAULT_MAX_TOKENS
from tests.support.markdown import blocks_of

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "models.md"


def test_the_guide_shows_settings_that_are_valid(tmp_path: Path) -> None:
    loaded = []
    for block in (block for block in blocks_of(GUIDE) if block.language == "yaml"):
        lines = "".join(f"  {line}\n" for line in block.code.splitlines())
        file = tmp_path / "development.yaml"
        file.write_text(f"environment: development\ndevelopment:\n{lines}", encoding="utf-8")
        keys = {"ANTHROPIC_API_KEY": "key", "OPENAI_API_KEY": "key", "SECOND_KEY": "key"}
        loaded.append(config.load(file, environ=keys).llm)
    providers, aliases, batches = loaded
    assert [provider.kind for provider in providers.providers] == ["anthropic", "openai_compatible", "offline"]
    assert providers.default_model == "claude-sonnet-5-5"
    assert aliases.default_model == "quick"
    assert batches.providers[0].rerank_models


def test_the_guide_says_what_the_environment_brings(tmp_path: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    first = config.load(environ={"ANTHROPIC_API_KEY": "key"}).llm.default_model
    assert f"`{first}`, the cheapest, first" in text
    assert f"{DEFAULT_MAX_TOKENS:,}" in text
