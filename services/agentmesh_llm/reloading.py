"""Reads the configuration again when its file changes: providers, prices and limits, all of it or nothing."""

import asyncio
from collections.abc import Callable

from agentmesh.kit import config, names, telemetry
from agentmesh.kit.config_source import Watch
from agentmesh.kit.settings import Settings

log = telemetry.logger(__name__)

_LOOK_S = 1.0
_SHOWN_ERRORS = 5

_reloads = telemetry.counter(
    names.LLM_RELOADS_TOTAL, "Times that the configuration was read again", ("outcome",), ("used", "refused")
)


class Reloader:
    """Watches the files that `settings` came from; `use` takes over new ones, or raises and leaves all as it was."""

    def __init__(self, settings: Settings, use: Callable[[Settings], None]) -> None:
        self._settings = settings
        self._use = use
        self._watch = Watch(settings)

    async def run(self) -> None:
        """Look once a second until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if await asyncio.to_thread(self._watch.changed):
                await self.reload()

    async def reload(self) -> bool:
        """Read again; say whether the new configuration is in use. One that is wrong changes nothing."""
        try:
            fresh = await asyncio.to_thread(config.reload, self._settings)
            if fresh.llm != self._settings.llm:
                self._use(fresh)
        except config.ConfigError as error:
            _reloads.labels("refused").inc()
            log.error("configuration_refused", errors=error.errors[:_SHOWN_ERRORS])
            return False
        elsewhere = [name for name in Settings.model_fields if getattr(fresh, name) != getattr(self._settings, name)]
        if restart := sorted(set(elsewhere) - {"llm"}):
            log.warning("restart_needed", sections=restart)
        _reloads.labels("used").inc()
        log.info("configuration_reloaded", changed="llm" in elsewhere)
        self._settings = fresh
        return True
