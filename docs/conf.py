"""Sphinx settings: `make docs` builds the site without a network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import metaot  # noqa: E402

project = "metaot"
author = "the metaot authors"
project_copyright = "the metaot authors, MIT licence"
release = version = metaot.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "extensions.commands",
    "extensions.docstrings",
    "extensions.mathml",
    "extensions.results",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["build", "auto_examples/**/*.ipynb"]
default_role = "code"
nitpicky = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline", "substitution"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",  # other scripts there are not pages
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "within_subsection_order": "extensions.order.ReadingOrder",
    "image_scrapers": ("matplotlib",),
    "plot_gallery": "True",
    "remove_config_comments": True,
}

html_math_renderer = "mathml"
smartquotes_action = "qe"  # options keep their dashes
highlight_language = "default"
html_theme = "pydata_sphinx_theme"
html_title = f"metaot {release}"
html_static_path = ["_static"]
html_css_files = ["metaot.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
}
