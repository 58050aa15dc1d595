from pathlib import Path

import yaml

from agentmesh.kit.settings import Settings
from tests.support.markdown import blocks_of

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "limits.md"


def test_the_guide_shows_settings_that_are_valid() -> None:
    (example,) = [block.code for block in blocks_of(GUIDE) if block.language == "yaml"]
    settings = Settings(**yaml.safe_load(example))
    assert settings.limits.of("research").weight == 3
    assert settings.limits.of("anybody").submits_per_s == 50
