"""Sphinx's settings; `docs.build` runs it on a folder where the pages lie as the site has them."""

project = "fedmets"
author = "the fedmets developers"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "fedmets"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
# two hyphens begin an option
smartquotes = False
# a block that names no language is for a shell
highlight_language = "sh"
pygments_style = "default"
pygments_dark_style = "github-dark"
myst_heading_anchors = 4
# the pages are plain Markdown, as GitHub shows them: nothing else is markup
myst_enable_extensions: list[str] = []
# the tutorial is computed anew for each build, in a folder of its own; what fails there fails the
# build
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
suppress_warnings = ["misc.highlighting_failure"]
