"""Every method by its library; a library that is not installed is left out and named."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from benchmarks.discrete.methods.base import Method
from benchmarks.discrete.methods.ours import ModelStart

LIBRARIES = {
    "ours": "metaot",
    "pot": "POT",
    "ott": "ott-jax",
    "geom": "geomloss",
    "regularised": "regot",
    "mdot": "mdot-tnt",
}


def all_methods(start: ModelStart) -> tuple[list[Method], dict[str, str]]:
    """Return the methods that can be run, and for each library its version or why it is missing."""
    methods, versions = [], {}
    for module, package in LIBRARIES.items():
        try:
            methods += import_module(f"benchmarks.discrete.methods.{module}").methods(start)
            versions[package] = version(package)
        except (ImportError, PackageNotFoundError, OSError) as reason:
            versions[package] = f"not installed ({reason})"
    return methods, versions
