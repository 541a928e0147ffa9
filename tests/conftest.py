"""Where tests run, and in which order."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Import torch and the rest where tests run, not in the process that only hands them out."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test: at the end, the other worker would wait for it."""
    items.sort(key=lambda item: "test_devices" not in item.nodeid)
