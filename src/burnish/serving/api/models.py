"""Models: those that are served, tuned ones included, and the deletion of a tuned one."""

from typing import Any

from fastapi import APIRouter, Request
from openai.types import Model, ModelDeleted

from burnish.serving.api.errors import model_not_found

router = APIRouter()


@router.get("/models")
def listed(request: Request) -> dict[str, Any]:
    """Base models first, then tuned ones, the newest first."""
    found = request.app.state.service.engines.listed()
    return {"object": "list", "data": [model.model_dump() for model in found]}


@router.get("/models/{name:path}", response_model=Model, response_model_exclude_unset=True)
def retrieved(name: str, request: Request) -> Model:
    """One model, by its name or an alias."""
    found: Model | None = request.app.state.service.engines.named(name)
    if found is None:
        raise model_not_found(name)
    return found


@router.delete("/models/{name:path}")
def deleted(name: str, request: Request) -> ModelDeleted:
    """A tuned model is served no more; its files stay with the job."""
    request.app.state.service.engines.delete(name)
    return ModelDeleted(id=name, deleted=True, object="model")
