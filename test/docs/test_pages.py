"""README and docs: links lead somewhere, Python in them runs, files that they name are there."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from commands import ROOT, blocks, pages  # noqa: E402

from specprune_ros.analysis.synthetic import synthetic_recording  # noqa: E402
from specprune_ros.policy import load_policy  # noqa: E402

#: Pages that a checkout may lack; conf.py leaves them out of the contents.
OPTIONAL = {"docs/performance.md"}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    lines = page.read_text().split("\n")
    for block in blocks(page.read_text()):
        for number in range(block.line - 1, block.line - 1 + len(block.lines)):
            lines[number] = ""
    return "\n".join(lines)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=of)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if of(there) in OPTIONAL and not there.exists():
            continue
        assert there.exists(), target
        if of(page).startswith("docs/") and there.suffix == ".md":  # Sphinx knows no others
            assert there.is_relative_to(ROOT / "docs"), target
        if anchor:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", pages(), ids=of)
def test_nothing_of_a_reader_is_named_that_is_not_theirs(page):
    """No machine's paths, no figure of a file that is not there."""
    text = page.read_text()
    assert "/home/" not in text and str(ROOT) not in text
    for path in re.findall(
            r"`((?:test|scripts|config|launch|msg|specprune_ros)/[\w./]+\.\w+)`", text):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_contents():
    index = (ROOT / "docs/index.md").read_text()
    listed = {line for block in blocks(index) if "toctree" in block.language
              for line in block.lines if line and not line.startswith(":")}
    there = {of(p).removeprefix("docs/").removesuffix(".md") for p in (ROOT / "docs").rglob("*.md")}
    assert there - listed == {"index"}
    assert {f"docs/{name}.md" for name in listed - there} <= OPTIONAL


def python_of(page: str, start: str) -> str:
    """The one Python block of a page that begins so."""
    (code,) = ("\n".join(block.lines) for block in blocks((ROOT / page).read_text())
               if block.lines[0].startswith(start))
    return code


def test_python_of_the_readme_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    image = np.zeros((256, 256, 3), np.uint8)
    names = {"image": image, "wrist_image": image, "proprio": np.zeros(8), "twist": np.zeros(6)}
    exec(python_of("README.md", "from specprune_ros.policy"), names)
    assert names["chunk"].actions.shape == (8, 7)


def test_python_of_the_preflight_runs(tiny_dir):
    names = {"policy": load_policy(tiny_dir)}
    exec(python_of("docs/doctor.md", "from specprune_ros.preflight"), names)
    assert len(names["findings"]) == 6


def test_python_of_recordings_runs(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rec").mkdir()
    synthetic_recording("static", 9, 0, 224).save(tmp_path / "rec/tabletop_00000.npz")
    names = {"policy": load_policy(tiny_dir)}
    exec(python_of("docs/analysis.md", "from specprune_ros.analysis.recording"), names)
    assert names["chunk"].actions.shape == (8, 7)


def test_animation_is_small_enough_for_a_page():
    assert (ROOT / "docs/pictures/demo.gif").stat().st_size < 3 * 2**20


@pytest.mark.slow
def test_html_is_built_without_a_warning(tmp_path):
    """What `make docs` does; where the extra `docs` is installed."""
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module)
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", ROOT / "docs",
         tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "kept patches" in (tmp_path / "tutorials/rqt.html").read_text()
