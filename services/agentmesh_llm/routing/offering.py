"""Makes the catalogue that the configuration describes, and a new one out of the old when it is read again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentmesh.kit import telemetry
from agentmesh.kit.model_settings import Llm
from agentmesh.kit.model_settings import Provider as ProviderSettings
from agentmesh_llm.books.prices import Price, PriceList
from agentmesh_llm.ports import Provider
from agentmesh_llm.routing.catalogue import Alias, Catalogue
from agentmesh_llm.routing.concurrency import CallLimit, LimitBounds
from agentmesh_llm.routing.deployments import Deployment, Offer
from agentmesh_llm.watching.calls import Server, Watch

log = telemetry.logger(__name__)

_LOOK_S = 1.0
_OPENAI_HOST = "api.openai.com"


@dataclass(frozen=True, slots=True)
class _Open:
    """A provider's connections, and the settings that they were made from."""

    settings: ProviderSettings
    provider: Provider
    limit: CallLimit


class Offering:
    """Holds the providers' connections. Those whose settings stay keep theirs, and what is known of how they fare."""

    def __init__(self, settings: Llm, watch: Watch) -> None:
        self._watch = watch
        self._open: dict[str, _Open] = {}
        self._leaving: dict[asyncio.Task[None], _Open] = {}
        self.catalogue = self._catalogue(settings, {})

    def use(self, settings: Llm) -> Catalogue:
        """Return the new catalogue; what runs at providers that are no longer in it goes on to its end."""
        known = {one.name: one for one in self.catalogue.deployments}
        before = dict(self._open)
        self.catalogue = self._catalogue(settings, known)
        for name, old in before.items():
            if self._open.get(name) != old:
                self._let_go(old, [one for one in known.values() if one.offer.provider is old.provider])
        return self.catalogue

    async def aclose(self) -> None:
        """Let every provider go."""
        leaving = dict(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        for one in (*self._open.values(), *leaving.values()):
            await one.provider.aclose()

    def _catalogue(self, settings: Llm, known: Mapping[str, Deployment]) -> Catalogue:
        prices = PriceList(settings.prices)
        opened = {}
        for wanted in settings.providers:
            old = self._open.get(wanted.name)
            same = old is not None and old.settings == wanted
            opened[wanted.name] = (
                old if old is not None and same else _Open(wanted, open_provider(wanted), limit_of(wanted))
            )
        offers = [_offer(one, prices, self._watch) for one in opened.values()]
        aliases = [Alias(alias.name, alias.models, alias.fallbacks) for alias in settings.aliases]
        catalogue = Catalogue(offers, settings.default_model, aliases, known=known)
        self._open = opened
        return catalogue

    def _let_go(self, old: _Open, deployments: Sequence[Deployment]) -> None:
        task = asyncio.create_task(self._close_when_idle(old, deployments))
        self._leaving[task] = old
        task.add_done_callback(lambda ended: self._leaving.pop(ended, None))

    async def _close_when_idle(self, old: _Open, deployments: Sequence[Deployment]) -> None:
        # At first, too: a request may have found its model already, and not have begun.
        await asyncio.sleep(_LOOK_S)
        while any(one.in_flight for one in deployments):  # noqa: ASYNC110 - rare, and nobody tells of a call's end
            await asyncio.sleep(_LOOK_S)
        await old.provider.aclose()
        log.info("provider_left", provider=old.settings.name)


def open_provider(provider: ProviderSettings) -> Provider:
    """Make the adapter of a configured provider; the libraries of the other kinds are not imported."""
    if provider.kind == "offline":
        from agentmesh_llm.adapters.offline import OfflineProvider

        return OfflineProvider()
    if provider.kind == "anthropic":
        from agentmesh_llm.adapters.anthropic import AnthropicProvider

        return AnthropicProvider(provider)
    from agentmesh_llm.adapters.openai_compatible import OpenAiCompatibleProvider

    return OpenAiCompatibleProvider(provider)


def limit_of(provider: ProviderSettings) -> CallLimit:
    """Make what bounds a provider's calls at a time; the offline one needs none."""
    pool = provider.pool
    most = pool.max_in_flight or min(pool.per_host, pool.connections)
    bounds = LimitBounds(most, min(pool.min_in_flight, most), pool.max_waiting)
    return CallLimit(provider.name, LimitBounds() if provider.kind == "offline" else bounds)


def _offer(one: _Open, prices: PriceList, watch: Watch) -> Offer:
    settings = one.settings
    return Offer(
        name=settings.name,
        provider=one.provider,
        models=settings.models,
        embedding_models=settings.embedding_models,
        total_timeout_s=settings.pool.total_timeout_s,
        embedding_batch=settings.embedding_batch,
        rerank_models=settings.rerank_models,
        rerank_batch=settings.rerank_batch,
        completion_models=settings.completion_models,
        completion_batch=settings.completion_batch,
        share_batches=settings.share_batches,
        prices=_prices_of(settings, prices),
        limit=one.limit,
        server=server_of(settings),
        watch=watch,
        send_traceparent=settings.send_traceparent,
    )


def server_of(provider: ProviderSettings) -> Server:
    """Return where a provider is; who is behind it is said as OpenTelemetry's conventions do."""
    if provider.base_url is None:
        return Server()
    parts = urlsplit(provider.base_url)
    vendor = "openai" if parts.hostname == _OPENAI_HOST else "anthropic" if provider.kind == "anthropic" else ""
    return Server(vendor, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))


def _prices_of(settings: ProviderSettings, prices: PriceList) -> dict[str, Price]:
    found = {model: prices.of(settings.name, model) for model in settings.every_model}
    return {model: price for model, price in found.items() if price is not None}
