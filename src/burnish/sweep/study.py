"""A search on disk: Optuna's database and its lock in the folder of the trials."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from sqlalchemy.exc import DatabaseError

from burnish.errors import RunError
from burnish.recipe.files import whole_files
from burnish.recipe.schema import Recipe
from burnish.sweep.space import recipe_settings


@contextmanager
def open_study(
    folder: Path, recipe: Recipe, space: Mapping[str, Sequence[Any]]
) -> Iterator[optuna.Study]:
    """The search on disk, locked; a new one begins with the recipe's own settings.

    Raises:
        RunError: it has another recipe, another process works in it, or it cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
            try:
                yield _opened(storage, folder, recipe, space)
            finally:
                storage.remove_session()
                storage.engine.dispose()
    except Timeout as error:
        raise RunError(
            f"another search works in {folder}",
            "wait for it to end",
            code="search_in_use",
            path=str(folder),
        ) from error
    except DatabaseError as error:
        raise RunError(
            f"{folder / 'study.db'} cannot be read or written ({error.orig})",
            "free room, or delete that folder and search again",
            code="database_unusable",
            path=str(folder / "study.db"),
        ) from error
    except OSError as error:
        if not isinstance(error.filename, str | Path) or folder.is_dir():
            raise
        raise RunError(
            f"{folder} cannot be written ({error.strerror})",
            "name a folder that you may write to with --output",
            code="folder_not_writable",
            path=str(folder),
            reason=error.strerror,
        ) from error


def _opened(
    storage: Any, folder: Path, recipe: Recipe, space: Mapping[str, Sequence[Any]]
) -> optuna.Study:
    known = {"storage": storage, "study_name": "sweep"}
    study = optuna.create_study(**known, load_if_exists=True)
    asked = recipe.model_dump(mode="json", exclude={"output", "device"}) | {"space": dict(space)}
    now = whole_files(asked, Path.cwd())
    before = whole_files(study.user_attrs.get("recipe", {}), Path.cwd())
    if before != now and not list(folder.glob("trial-*")):
        optuna.delete_study(**known)  # the recipe had a fault that no trial got past
        study, before = optuna.create_study(**known), {}
    if not before:
        if (own := recipe_settings(recipe, space)) is not None:
            study.enqueue_trial(own, skip_if_exists=True)
        study.set_user_attr("recipe", asked)
    elif before != now:
        changed = [key for key in now if before.get(key) != now[key]]
        raise RunError(
            f"the recipe of the search in {folder} has changed since ({', '.join(changed)})",
            "put it back, or search anew under another --name",
            code="recipe_changed",
            path=str(folder),
            keys=changed,
        )
    return study
