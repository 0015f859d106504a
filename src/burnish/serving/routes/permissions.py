"""The routes of checkpoint permissions: grant, list and revoke.

A checkpoint's name may hold slashes, as that of its base model may.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from openai.types.fine_tuning.checkpoints import (
    PermissionCreateResponse,
    PermissionDeleteResponse,
    PermissionListResponse,
)
from pydantic import Field

from burnish.serving.routes.dependencies import After, Shared
from burnish.serving.schemas.responses import ListPage, list_page
from burnish.serving.schemas.sampling import Array, Body
from burnish.serving.state import permissions
from burnish.serving.state.paging import Cursor
from burnish.serving.state.tables import PermissionRow

router = APIRouter()

_PATH = "/fine_tuning/checkpoints/{checkpoint:path}/permissions"


class Grant(Body):
    """The projects that may use the checkpoint."""

    project_ids: Annotated[
        Array[Annotated[str, Field(min_length=1, max_length=64)]],
        Field(min_length=1, max_length=1000),
    ]


@router.post(
    _PATH, summary="Grant checkpoint permissions", response_model=ListPage[PermissionCreateResponse]
)
def create(service: Shared, checkpoint: str, body: Grant) -> Any:
    """Allow projects to use a tuned model or checkpoint."""
    rows = permissions.grant(service.database, checkpoint, body.project_ids)
    return list_page([PermissionCreateResponse(**_values(row)) for row in rows])


@router.get(
    _PATH, summary="List checkpoint permissions", response_model=ListPage[PermissionListResponse]
)
def listed(
    service: Shared,
    checkpoint: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: Annotated[str | None, Query(max_length=64)] = None,
) -> Any:
    """List the projects that may use a tuned model or checkpoint."""
    cursor = Cursor(limit, after, ascending=order == "ascending")
    page = permissions.listed(service.database, checkpoint, cursor, project_id)
    shown = [PermissionListResponse(**_values(row)) for row in page.rows]
    return list_page(shown, has_more=page.has_more)


@router.delete(
    _PATH + "/{permission_id}",
    summary="Revoke a checkpoint permission",
    response_model=PermissionDeleteResponse,
)
def delete(service: Shared, checkpoint: str, permission_id: str) -> Any:
    """Revoke a project's permission to use a tuned model or checkpoint."""
    permissions.revoke(service.database, checkpoint, permission_id)
    return PermissionDeleteResponse(id=permission_id, deleted=True, object="checkpoint.permission")


def _values(row: PermissionRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "created_at": row.created_at,
        "object": "checkpoint.permission",
        "project_id": row.project_id,
    }
