"""Imports every search, so that the registry is full. Add the module of a new search here."""

from agents.searches import bandit, one_knob, random_search, static
from agents.searches.base import SEARCHES, Search
from taskrl.registry import Registry

MODULES = (random_search, static, one_knob, bandit)


def searches() -> Registry[Search]:
    """All searches by name."""
    return SEARCHES
