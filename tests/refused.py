"""How tests expect a user's error: by its code and its values, never by its words."""

from typing import Any

import pytest

from burnish.errors import UserError


def refused(
    code: str, kind: type[UserError] = UserError, /, **fields: Any
) -> pytest.RaisesExc[UserError]:
    """A context in which an error of that kind and code is raised, with at least those fields."""

    def fits(error: UserError) -> bool:
        return error.code == code and fields.items() <= error.fields.items()

    return pytest.raises(kind, check=fits)
