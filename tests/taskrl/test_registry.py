import pytest

from taskrl.errors import ConfigError, TaskrlError
from taskrl.registry import Registry


def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.register("red")(1)
    registry.register("green")(2)
    return registry


def test_entries_are_found_by_name_in_the_order_of_registration() -> None:
    registry = colours()
    assert (registry["red"], registry["green"]) == (1, 2)
    assert registry.names() == tuple(registry) == ("red", "green")
    assert "red" in registry and "blue" not in registry


def test_registering_returns_the_object_unchanged() -> None:
    registry: Registry[type] = Registry("thing")

    @registry.register("thing")
    class Thing:
        pass

    assert registry["thing"] is Thing


def test_a_name_is_registered_once() -> None:
    registry = colours()
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        registry.register("red")
    assert registry["red"] == 1


def test_an_unknown_name_is_an_error_for_the_user_with_the_known_names_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^Unknown colour 'gren'; known: green, red\. Did you mean 'green'\?$"):
        colours()["gren"]
    with pytest.raises(TaskrlError, match=r"^Unknown colour 'zzz'; known: green, red\.$"):
        colours()["zzz"]
