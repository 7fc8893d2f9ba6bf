"""Promises about links: each leads to a file, a heading or a picture that there is, and every page can be found from the index."""

from pathlib import Path

import pytest

from ohlcv_assets_tests.docs.pages import DOCS, PAGES, ROOT, anchors, linked_pages, links, name_of

_INDEX = DOCS / "README.md"


def _target(page: Path, link: str) -> tuple[Path, str]:
    file, _, heading = link.partition("#")
    return ((page.parent / file).resolve() if file else page), heading


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    """A relative link names a file or folder of the project, a picture among them."""
    assert [link for link in links(page) if not _target(page, link)[0].exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_heading_that_a_link_names_is_there(page: Path) -> None:
    """What follows the # of a link is a heading of the page that the link leads to."""
    named = [(link, *_target(page, link)) for link in links(page) if "#" in link]
    assert [link for link, target, heading in named if heading not in anchors(target)] == []


def _reachable(start: Path) -> set[Path]:
    found, waiting = set(), [start]
    while waiting:
        page = waiting.pop()
        if page in found:
            continue
        found.add(page)
        leads = {pages for target in linked_pages(page) for pages in _pages_of(target)}
        waiting.extend(leads - found)
    return found


def _pages_of(target: Path) -> list[Path]:
    """The pages that a link opens: a folder shows all of its own."""
    return sorted(target.glob("*.md")) if target.is_dir() else [target] if target.suffix == ".md" else []


def test_every_page_can_be_found_from_the_index() -> None:
    """Whoever follows links from docs/README.md comes to every page of docs/."""
    lost = set(DOCS.rglob("*.md")) - _reachable(_INDEX)
    assert sorted(page.relative_to(ROOT).as_posix() for page in lost) == []


@pytest.mark.parametrize("folder", ["tutorial", "how-to", "reference", "explanation"])
def test_the_index_names_every_page_of_the_four_parts(folder: str) -> None:
    """Tutorial, how-to, reference and explanation: each page stands in docs/README.md itself."""
    assert sorted(set((DOCS / folder).glob("*.md")) - linked_pages(_INDEX)) == []
