"""The fixture ``keeps_laws`` of pytest, which imports little until it is used."""

from collections.abc import Callable

import pytest


@pytest.fixture
def keeps_laws() -> Callable[..., None]:
    """Return a function that fails the test if a class breaks a law of its room.

    Type ``keeps_laws(Mine, sigma=0.1)``. Settings that you leave out have their defaults.
    """
    from sa.testing import command

    return command.keeps_laws
