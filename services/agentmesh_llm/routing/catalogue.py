"""Knows which provider serves which model, because a request names only the model."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh_llm.domain import Ability, Model
from agentmesh_llm.routing.deployments import Deployment, Offer
from agentmesh_llm.routing.dispatch import Ways


@dataclass(frozen=True, slots=True)
class Alias:
    """A model id that stands for models at several places; what fails at all of them goes to the fallbacks."""

    name: str
    targets: tuple[str, ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A model, the places that serve it, the ids of models to ask when none of them does, and what it can do."""

    model: Model
    deployments: tuple[Deployment, ...]
    fallbacks: tuple[str, ...] = ()
    abilities: frozenset[Ability] = frozenset({Ability.ANSWER})

    @property
    def total_timeout_s(self) -> float:
        """Return what bounds a call that is no stream."""
        return max([one.offer.total_timeout_s for one in self.deployments])

    @property
    def shares_batches(self) -> bool:
        """Return whether the operator lets texts of several tenants go in one call."""
        return all(one.offer.share_batches for one in self.deployments)


class Catalogue:
    """Finds models. Offers come in order of preference.

    A model's id is its name; where an earlier provider has a model of that name, it is PROVIDER/NAME. The longer
    form finds any model. An alias stands before a model of its name. Of the deployments that are `known` by
    PROVIDER/MODEL, those with the same connections are taken over with what they know of themselves.
    """

    def __init__(
        self,
        offers: Iterable[Offer],
        default_model: str,
        aliases: Iterable[Alias] = (),
        now: Callable[[], float] = time.monotonic,
        known: Mapping[str, Deployment] = MappingProxyType({}),
    ) -> None:
        self.offers = tuple(offers)
        self.deployments: list[Deployment] = []
        self._now = now
        self._known = known
        self._by_id: dict[str, Served] = {}
        self._long: dict[str, Served] = {}
        for offer in self.offers:
            for name, abilities in _abilities_of(offer).items():
                self._add(offer, name, frozenset(abilities))
        plain = {**self._long, **self._by_id}
        for alias in aliases:
            self._by_id[alias.name] = _stands_for(alias, [plain[target] for target in alias.targets])
        self._default = {ability: self._first(ability, default_model) for ability in Ability}

    @property
    def models(self) -> list[Model]:
        """Every model once."""
        return [self._marked(served) for served in self._by_id.values()]

    def get(self, model_id: str) -> Model:
        """Return a model; raise NotFound."""
        return self._marked(self._find(model_id))

    def resolve(self, model_id: str, ability: Ability = Ability.ANSWER) -> Served:
        """Return who serves a model, or the default one if no id is given.

        Raises NotFound, or InvalidRequest if the model can't do what is wanted.
        """
        if not model_id:
            default = self._default[ability]
            if default is None:
                raise NotFound("no such model is configured", reason="MODEL_NOT_FOUND")
            return default
        served = self._find(model_id)
        if ability not in served.abilities:
            can = " and ".join(sorted(one.value for one in served.abilities)) + " only"
            raise InvalidRequest(f"the model {can}", violations=[("model", can)])
        return served

    def ways(self, served: Served, fallbacks: Sequence[str] = ()) -> Ways:
        """Return where a question to a model may go; raise NotFound or InvalidRequest for a fallback of a request."""
        others = [self.resolve(model_id) for model_id in fallbacks]
        others += [self._find(model_id) for model_id in served.fallbacks]
        return Ways([served.deployments, *(other.deployments for other in others)])

    def _add(self, offer: Offer, name: str, abilities: frozenset[Ability]) -> None:
        model_id = f"{offer.name}/{name}" if name in self._by_id else name
        model = Model(model_id, name, offer.name, False, Ability.EMBED in abilities, Ability.RERANK in abilities)
        served = Served(model, (self._deployment(offer, name),), (), abilities)
        served = self._by_id.setdefault(model_id, served)
        self._long[f"{offer.name}/{name}"] = served

    def _deployment(self, offer: Offer, name: str) -> Deployment:
        one = self._known.get(f"{offer.name}/{name}")
        if one is None or one.offer.provider is not offer.provider:
            one = Deployment(offer, name, self._now)
        one.offer = offer  # its prices may be others
        self.deployments.append(one)
        return one

    def _first(self, ability: Ability, wanted: str) -> Served | None:
        able = [served for served in self._by_id.values() if ability in served.abilities]
        other = None if ability is Ability.ANSWER and wanted else next(iter(able), None)
        return next((served for served in able if served.model.id == wanted), other)

    def _find(self, model_id: str) -> Served:
        served = self._by_id.get(model_id) or self._long.get(model_id)
        if served is None:
            raise NotFound("no such model is configured", reason="MODEL_NOT_FOUND")
        return served

    def _marked(self, served: Served) -> Model:
        main = next(ability for ability in Ability if ability in served.abilities)
        return replace(served.model, is_default=served is self._default[main])


def _abilities_of(offer: Offer) -> dict[str, set[Ability]]:
    """Return what each of a provider's models can do."""
    found: dict[str, set[Ability]] = {}
    for names, ability in (
        (offer.models, Ability.ANSWER),
        (offer.embedding_models, Ability.EMBED),
        (offer.rerank_models, Ability.RERANK),
        (offer.completion_models, Ability.COMPLETE),
    ):
        for name in names:
            found.setdefault(name, set()).add(ability)
    return found


def _stands_for(alias: Alias, targets: Sequence[Served]) -> Served:
    deployments = tuple(one for target in targets for one in target.deployments)
    model = Model(
        alias.name,
        ",".join(one.model for one in deployments),
        ",".join(one.offer.name for one in deployments),
        is_default=False,
        embeddings=targets[0].model.embeddings,
        reranks=targets[0].model.reranks,
    )
    abilities = frozenset.intersection(*(target.abilities for target in targets))
    return Served(model, deployments, alias.fallbacks, abilities)
