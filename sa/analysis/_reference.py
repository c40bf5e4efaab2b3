"""The short name of a reference gradient, for the words that an analysis prints."""

from sa.table import names
from sa.types import Estimator


def called(reference: Estimator | None) -> str:
    """Return the short name of a reference gradient, as tables and figures have it.

    >>> from sa.estimator.cdg import CDG
    >>> called(CDG(epsilon=0.1))
    'CDG (eps 0.1)'
    """
    if reference is None:
        return names.reference(None)
    return names.reference(type(reference).__name__, vars(reference).get("epsilon"))
