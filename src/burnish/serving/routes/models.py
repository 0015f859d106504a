"""The routes of models: list, describe and delete."""

from typing import Literal

from fastapi import APIRouter, Request
from openai.types import Model, ModelDeleted
from pydantic import BaseModel

from burnish.serving.catalog.registry import ModelRegistry
from burnish.serving.errors import forbidden, invalid, model_not_found
from burnish.serving.middleware.request_state import project_of
from burnish.serving.routes.dependencies import Shared
from burnish.serving.state import models, permissions

router = APIRouter()


class ModelList(BaseModel):
    """All models that the key may use."""

    object: Literal["list"]
    data: list[Model]


@router.get("/models", summary="List models", response_model_exclude_unset=True)
def listed(request: Request) -> ModelList:
    """List the base models, then tuned models (the oldest first), then aliases."""
    return ModelList(object="list", data=_engines(request).listed(project_of(request)))


@router.get("/models/{name:path}", summary="Get a model", response_model_exclude_unset=True)
def retrieved(name: str, request: Request) -> Model:
    """Return the description of a model by its name or alias."""
    result = _engines(request).named(name, project_of(request))
    if result is None:
        raise model_not_found(name)
    return result


@router.delete("/models/{name:path}", summary="Delete a tuned model")
def deleted(name: str, request: Request, service: Shared) -> ModelDeleted:
    """Delete a tuned model, so that it can no longer be used. Its files stay with the job. Only
    keys of the project that owns the model, or of the whole organization, may delete it."""
    engines = _engines(request)
    if engines.is_base(name):
        raise invalid(f"{name} is a base model and cannot be deleted.", "model", "model_is_base")
    project = project_of(request)
    model = engines.tuned(name, project)
    if model is None:
        raise model_not_found(name)
    if not permissions.owns(service.database, model, project):
        message = (
            f"The model {name} belongs to another project; only keys of that project may delete it."
        )
        raise forbidden(message, "not_owner")
    if model.name != name:
        message = f"{name} is an alias of {model.name}; remove it with `burnish alias {name}=`."
        raise invalid(message, "model", "model_is_alias")
    models.delete(service.database, name)
    return ModelDeleted(id=name, deleted=True, object="model")


def _engines(request: Request) -> ModelRegistry:
    result: ModelRegistry = request.app.state.service.engines
    return result
