"""Other names for a source's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from predecode.transforms.errors import UsageError
from predecode.transforms.features import check_name


def new_names(names: Sequence[str], renames: Mapping[str, str]) -> dict[str, str]:
    """The name under which each feature goes on, in order.

    >>> new_names(["action", "img"], {"img": "observation.image"})
    {'action': 'action', 'img': 'observation.image'}

    Args:
        names: As in the source, without those that are excluded.
        renames: Old name to new name.

    Raises:
        UsageError: a feature that is not there, two of one name.
        SourceError: a new name that is not safe in a path.
    """
    if unknown := [name for name in renames if name not in names]:
        raise UsageError(f"--rename: there is no feature {unknown[0]!r}. There are: {', '.join(names)}.")
    for name in renames.values():
        check_name(name, "--rename")
    renamed = {name: renames.get(name, name) for name in names}
    taken: dict[str, str] = {}
    for old, new in renamed.items():
        if new in taken:
            raise UsageError(f"--rename: {taken[new]!r} and {old!r} cannot both be called {new!r}.")
        taken[new] = old
    return renamed
