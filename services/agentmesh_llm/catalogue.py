"""Knows which provider serves which model, because a request names only the model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agentmesh.kit.errors import InvalidRequest, NotFound
from agentmesh_llm.domain import Model
from agentmesh_llm.ports import Provider


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider as configured, with the models it is asked for; `total_timeout_s` bounds what is no stream,
    `embedding_batch` the texts of one call."""

    name: str
    provider: Provider
    models: tuple[str, ...]
    embedding_models: tuple[str, ...]
    total_timeout_s: float
    embedding_batch: int = 256


@dataclass(frozen=True, slots=True)
class Served:
    """A model and who serves it."""

    model: Model
    offer: Offer


class Catalogue:
    """Finds models. Offers come in order of preference.

    A model's id is its name; where an earlier provider has a model of that name, it is PROVIDER/NAME. The longer
    form finds any model.
    """

    def __init__(self, offers: Iterable[Offer], default_model: str) -> None:
        self.offers = tuple(offers)
        self._by_id: dict[str, Served] = {}
        for offer in self.offers:
            for names, embeddings in ((offer.models, False), (offer.embedding_models, True)):
                for name in names:
                    self._add(offer, name, embeddings)
        self._default = {False: self._first(False, default_model), True: self._first(True, "")}
        self._long = {f"{served.offer.name}/{served.model.name}": served for served in self._by_id.values()}

    @property
    def models(self) -> list[Model]:
        """Every model once."""
        return [self._marked(served) for served in self._by_id.values()]

    def get(self, model_id: str) -> Model:
        """Return a model; raise NotFound."""
        return self._marked(self._find(model_id))

    def resolve(self, model_id: str, *, embeddings: bool) -> Served:
        """Return who serves a model, or the default one if no id is given.

        Raises NotFound, or InvalidRequest if the model can't do what is wanted.
        """
        if not model_id:
            default = self._default[embeddings]
            if default is None:
                raise NotFound("no such model is configured", reason="MODEL_NOT_FOUND")
            return default
        served = self._find(model_id)
        if served.model.embeddings != embeddings:
            can = "makes embeddings only" if served.model.embeddings else "makes no embeddings"
            raise InvalidRequest(f"the model {can}", violations=[("model", can)])
        return served

    def _add(self, offer: Offer, name: str, embeddings: bool) -> None:
        model_id = f"{offer.name}/{name}" if name in self._by_id else name
        model = Model(model_id, name, offer.name, is_default=False, embeddings=embeddings)
        self._by_id.setdefault(model_id, Served(model, offer))

    def _first(self, embeddings: bool, wanted: str) -> Served | None:
        of_kind = [served for served in self._by_id.values() if served.model.embeddings == embeddings]
        return next((served for served in of_kind if not wanted or served.model.id == wanted), None)

    def _find(self, model_id: str) -> Served:
        served = self._by_id.get(model_id) or self._long.get(model_id)
        if served is None:
            raise NotFound("no such model is configured", reason="MODEL_NOT_FOUND")
        return served

    def _marked(self, served: Served) -> Model:
        return replace(served.model, is_default=served in self._default.values())
