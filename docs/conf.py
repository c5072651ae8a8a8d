"""Sphinx: `make docs` builds these pages as HTML in out/docs, warnings as errors."""
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]

project = 'specprune_ros'
author = 'specprune_ros maintainers'
copyright = '2026, specprune_ros maintainers'
release = version = ElementTree.parse(ROOT / 'package.xml').findtext('version')

extensions = ['myst_parser']
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['results']
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 4

html_theme = 'furo'
html_title = f'specprune_ros {release}'
html_static_path = ['_static']
html_css_files = ['wide.css']
# Blocks without a language are commands or plain text.
highlight_language = 'text'
nitpicky = True


# Listed in index.md, and left out of a checkout that lacks them.
OPTIONAL = ('view', 'layouts', 'reports', 'performance')


def setup(app):
    """Register what drops optional pages that are not there from the contents."""
    missing = [name for name in OPTIONAL if not (ROOT / f'docs/{name}.md').exists()]

    def without_missing(app, name, source):
        if name == 'index':
            source[0] = '\n'.join(
                line for line in source[0].split('\n') if line not in missing)

    app.connect('source-read', without_missing)
