"""What the documentation site changes in the pages: the README is its first page, and links into the code are text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

README = Path(__file__).parent.parent / "README.md"
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./|(?!docs/)(?=[\w.]+/|CONTRIBUTING))[^)\s]*\)")
"""A link to a file outside the docs folder, from a page there or from the README."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page."""
    files.append(File.generated(config, "index.md", content=README.read_text().replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links out of the docs folder replaced by their text."""
    return OUTSIDE.sub(r"\1", markdown)
