"""How the documentation site is built: ``make docs``, then open build/site/index.html."""

from datetime import date

import featurestore

project = "featurestore"
copyright = f"{date.today():%Y}, the authors of featurestore"
release = featurestore.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
]
html_theme = "pydata_sphinx_theme"
html_title = "featurestore"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_show_sourcelink = False
exclude_patterns = ["images/**"]
templates_path = ["_templates"]
myst_heading_anchors = 4  # links to headings, as GitHub makes them
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "none"  # numpydoc docstrings say types and shapes
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
copybutton_prompt_text = "$ "
default_role = "literal"  # `name` in docstrings and in the commands' help


def setup(app):
    """Show the examples of a command as what is typed."""

    def as_typed(app, context, lines):
        said = [line for line in lines if line.strip("\b ")]
        lines[:] = [".. code-block:: none", "", *(f"   {line}" for line in said), ""]

    app.connect("sphinx-click-process-epilog", as_typed)
