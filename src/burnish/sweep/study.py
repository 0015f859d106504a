"""A sweep on disk: Optuna's database and its lock in the folder of the trials."""

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
    """Opens and locks the sweep in a folder; a new sweep tries the recipe's own settings first.

    Raises:
        RunError: the sweep has another recipe, another process works in it, or it is not writable.
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
            f"another process is running the sweep in {folder}",
            "wait until it ends",
            code="search_in_use",
            path=str(folder),
        ) from error
    except DatabaseError as error:
        raise RunError(
            f"{folder / 'study.db'} cannot be read or written ({error.orig})",
            "free some disk space, or delete the folder and start the sweep again",
            code="database_unusable",
            path=str(folder / "study.db"),
        ) from error
    except OSError as error:
        if not isinstance(error.filename, str | Path) or folder.is_dir():
            raise
        raise RunError(
            f"cannot write to {folder} ({error.strerror})",
            "choose a folder you have access to with --output",
            code="folder_not_writable",
            path=str(folder),
            reason=error.strerror,
        ) from error


def _opened(
    storage: Any, folder: Path, recipe: Recipe, space: Mapping[str, Sequence[Any]]
) -> optuna.Study:
    known = {"storage": storage, "study_name": "sweep"}
    study = optuna.create_study(**known, load_if_exists=True)
    settings = recipe.model_dump(mode="json", exclude={"output", "device"}) | {"space": dict(space)}
    now = whole_files(settings, Path.cwd())
    before = whole_files(study.user_attrs.get("recipe", {}), Path.cwd())
    if before != now and not list(folder.glob("trial-*")):
        optuna.delete_study(**known)  # every trial failed on an error in the recipe
        study, before = optuna.create_study(**known), {}
    if not before:
        if (own := recipe_settings(recipe, space)) is not None:
            study.enqueue_trial(own, skip_if_exists=True)
        study.set_user_attr("recipe", settings)
    elif before != now:
        changed = [key for key in now if before.get(key) != now[key]]
        raise RunError(
            f"the recipe has changed since the sweep in {folder} started ({', '.join(changed)})",
            "restore it, or start a new sweep with another --name",
            code="recipe_changed",
            path=str(folder),
            keys=changed,
        )
    return study
