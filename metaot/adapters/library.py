"""Import another library when it is needed."""

from importlib import import_module
from types import ModuleType


def library(name: str, extra: str) -> ModuleType:
    """Import a module of another library; where that is missing, the error says what to install."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{name} is not installed ({error}): pip install 'metaot[{extra}]'") from error
