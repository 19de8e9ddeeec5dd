"""A registry is a dictionary with good errors: name -> thing, duplicates and unknown names refused."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from taskrl.errors import ConfigError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind of component, in the order of registration."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores the decorated object under `name`. Raises ValueError on a duplicate."""
        if name in self._entries:
            raise ValueError(f"{self.what} {name!r} is registered twice")

        def store(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return store

    def __getitem__(self, name: str) -> T:
        """The entry called `name`. Raises ConfigError naming the known and the nearest name."""
        if name not in self._entries:
            raise ConfigError(unknown_name(self.what, name, self._entries))
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)
