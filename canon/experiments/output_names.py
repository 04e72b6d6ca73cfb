"""Which output belongs to which task of an experiment."""

from __future__ import annotations

import json

from canon.errors import InputError
from canon.experiments.store import Store
from canon.storage import write_json

NAMES_FILE = "names.json"


class OutputNames:
    """Folders keep plain names, and one that is taken is never given out again.

    What a file once asked for stays as it is when the file is changed: what is asked for then gets ``NAME-2``.
    """

    def __init__(self, store: Store) -> None:
        """Read those that were given out before.

        Raises:
            InputError: the list is damaged, or the store cannot be reached.
        """
        path = store.fetch(NAMES_FILE) if store.there else store.path(NAMES_FILE)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError) as error:
            raise InputError(f"'{path}' is damaged ({error}); give another --out.") from error
        self._owners: dict[str, str] = {str(name): str(key) for name, key in found.items()}
        self._given = {(key, name.rpartition("/")[0]): name for name, key in self._owners.items()}
        self._changed = False

    def give(self, key: str, folder: str, wanted: str, suffix: str = "") -> str:
        """The name (without its folder) for the output of a task."""
        if (key, folder) in self._given:
            return self._given[key, folder].rpartition("/")[2].removesuffix(suffix)
        name, number = wanted, 2
        while f"{folder}/{name}{suffix}" in self._owners:
            name, number = f"{wanted}-{number}", number + 1
        self._owners[f"{folder}/{name}{suffix}"] = key
        self._given[key, folder] = f"{folder}/{name}{suffix}"
        self._changed = True
        return name

    def save(self, store: Store) -> None:
        """Write them down, if there are new ones."""
        if self._changed:
            write_json(store.path(NAMES_FILE), self._owners)
            store.publish(NAMES_FILE)
