"""Links of all Markdown files lead somewhere: to files, to headings, and to addresses that can be ones."""

import re
from urllib.parse import urlsplit

import pytest
from support.manual import ROOT, prose

FILES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/**/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("engines/*.md")]
)
"""Those of the source: other folders have what was built, and users' outputs with cards of their own."""
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def _anchors(path):
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in _LINK.findall(prose(path)):
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme in ("http", "https"), link
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", address.netloc), link
            continue
        target = (path.parent / address.path).resolve() if address.path else path
        assert target.exists(), f"{path.name}: {link} is not there"
        if address.fragment:
            assert address.fragment in _anchors(target), f"{path.name}: {link} has no such heading"
