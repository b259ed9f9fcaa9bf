"""Groups of a ladder: how many there may be, and the names of their figures."""

MOST_GROUPS = 5


def group_key(figure: str, number: int) -> str:
    """Name of a figure of group `number`, counted from 1: the coarsest."""
    return f"{figure}_{number}"
