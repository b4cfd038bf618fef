"""The documentation site builds without a warning and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from charlm_jax.cli.commands import COMMANDS
from charlm_jax.config.loading import load_config, shipped_names
from tests.conftest import ROOT

# What a browser loads by itself, unlike the target of a link.
LOADED = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?(https?:)?//|<link[^>]+href=\"?(https?:)?//"
)

MODEL = "<!DOCTYPE html>\n<title>a model</title>\n"  # as a page of `charlm export`


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    model = folder.parent / "page.html"
    model.write_text(MODEL)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "MODEL_PAGE": str(model)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.exhaustive
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.exhaustive
def test_the_sections_of_a_page_are_listed_in_its_margin_alone(site: Path) -> None:
    assert "- [Train a model](#train-a-model)" in (ROOT / "docs" / "training.md").read_text()
    page = (site / "training" / "index.html").read_text(encoding="utf-8")
    assert 'href="#train-a-model"' in page and '<li><a href="#' not in page


@pytest.mark.exhaustive
def test_links_to_other_pages_are_kept_and_those_to_source_files_are_text(site: Path) -> None:
    attention, lstm = (
        (site / "layers" / name / "index.html").read_text(encoding="utf-8")
        for name in ("attention", "lstm")
    )
    assert 'href="../../models/#what-attention-remembers"' in attention
    assert "lstm_fused.py" in lstm and "/lstm_fused.py" not in lstm


@pytest.mark.exhaustive
def test_the_page_of_a_model_is_there_as_it_is_and_linked(site: Path) -> None:
    assert (site / "model.html").read_text(encoding="utf-8") == MODEL
    pages = [page for page in site.rglob("*.html") if 'href="../model.html"' in page.read_text()]
    assert pages == [site / "playground" / "index.html"]


@pytest.mark.exhaustive
def test_every_command_config_and_field_has_its_entry(site: Path) -> None:
    def page(name: str) -> str:
        return (site / "reference" / name / "index.html").read_text(encoding="utf-8")

    commands, configs, fields = page("cli"), page("configs"), page("config")
    assert all(f'id="charlm-{name}"' in commands for name in COMMANDS)
    assert all(f'id="{name.replace("/", "")}"' in configs for name in shipped_names())
    assert all(f"<code>{field} = " in fields for field in load_config("quickstart").flatten())
