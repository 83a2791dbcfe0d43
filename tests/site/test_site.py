"""The pages in a real browser: `make docs-check` builds them and runs this.

Which site is in the variable SITE; where there is none, or no browser, all is skipped.
"""

import functools
import os
import re
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

import chromium

ROOT = Path(os.environ.get("SITE", "."))
AUDIT = Path(__file__).with_name("audit.js").read_text("utf-8")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT.rglob("*.html") if "SITE" in os.environ else ())
)
# Whose sources are shown as they are, or which Sphinx makes.
MADE = ("_modules/", "genindex", "py-modindex", "search")
WRITTEN = [page for page in PAGES if not page.startswith(MADE)]
# One page of each kind is enough of what Sphinx makes alone.
SHOWN = [*WRITTEN, *[page for page in PAGES if page.startswith(MADE[1:])]]
SHOWN += [page for page in PAGES if page.endswith("contrastive/info_nce.html")]

pytestmark = [
    pytest.mark.skipif("SITE" not in os.environ, reason="SITE names no built site"),
    pytest.mark.xdist_group("site"),
]
needs_browser = pytest.mark.skipif(not chromium.find(), reason="there is no Chromium")


# Wait until the page is among the results, and return these.
SEARCHED = """(page) => new Promise((done) => {
  const since = Date.now();
  const look = () => {
    const links = [...document.querySelectorAll("#search-results li a")];
    const hrefs = links.map((link) => link.getAttribute("href"));
    const found = hrefs.some((href) => href.startsWith(page));
    if (found || Date.now() - since > 20000) done(hrefs);
    else setTimeout(look, 50);
  };
  look();
})"""


class Page(HTMLParser):
    """What a page holds, of what is looked at without a browser."""

    def __init__(self, name):
        super().__init__()
        self.name, self.ids, self.links, self.meta = name, set(), [], {}
        self.title, self._in_title = "", False
        self.feed((ROOT / name).read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "meta" and "name" in attrs:
            self.meta[attrs["name"]] = attrs.get("content", "")
        self._in_title = tag == "title" or (self._in_title and tag != "body")
        for key in ("href", "src"):
            if attrs.get(key):
                self.links.append(attrs[key])

    def handle_endtag(self, tag):
        self._in_title = self._in_title and tag != "title"

    def handle_data(self, data):
        self.title += data if self._in_title else ""


@functools.cache
def parsed(name):
    return Page(name)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in parsed(name).links:
        url, anchor = urldefrag(link)
        if urlsplit(url).scheme or link.startswith("//"):
            continue
        path = unquote(urlsplit(urljoin(f"/{name}", url)).path).lstrip("/")
        target = path + "index.html" * (path.endswith("/") or not path)
        assert (ROOT / target).is_file(), link
        if anchor and target.endswith(".html"):
            assert unquote(anchor) in parsed(target).ids, link


@pytest.mark.parametrize("name", WRITTEN)
def test_pages_say_what_they_are(name):
    page = parsed(name)
    assert "xmodal-losses" in page.title
    assert 15 < len(page.meta["description"]) < 200
    assert not re.search(r"\\\w|\$", page.meta["description"])


def test_titles_tell_pages_apart():
    titles = [parsed(name).title for name in WRITTEN]
    assert len(set(titles)) == len(titles)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve the site, and beside it what is written to another folder."""
    folders = (ROOT, tmp_path_factory.mktemp("pages"))

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path):
            path = unquote(urlsplit(path).path).lstrip("/") or "index.html"
            found = [folder / path for folder in folders if (folder / path).is_file()]
            return str(found[0] if found else folders[0] / path)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", folders[1]
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(server, tmp_path_factory):
    site, _ = server
    profile = tmp_path_factory.mktemp("profile")
    try:
        opened = chromium.Page(chromium.find(), profile, site=site)
    except ConnectionError:
        pytest.skip("the browser does not start")
    yield opened
    opened.close()


def faults(browser, url):
    """Return what is wrong with a page, on a phone and on a desk, by day and night."""
    browser.errors.clear()
    browser.scheme("light")
    browser.resize(375, 812, mobile=True)
    browser.open(url)
    browser.run(f"window.audit = {AUDIT}; 0")
    found = {"on a phone": browser.run("audit.overflow()")}
    browser.resize(1280, 900)
    for name in ("maths", "images", "buttons"):
        found[name] = browser.run(f"audit.{name}()")
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.drawn()
        found[scheme] = browser.run("audit.contrast()")
    found["errors"] = list(browser.errors)
    return {name: what for name, what in found.items() if what}


@needs_browser
@pytest.mark.parametrize("name", SHOWN)
def test_a_page_is_fit_to_be_read(browser, server, name):
    assert faults(browser, server[0] + name) == {}


@needs_browser
@pytest.mark.parametrize(
    ("query", "page"),
    [("bandwidth", "losses/mmd.html"), ("hardest", "losses/info_nce.html")],
)
def test_search_finds_the_page(browser, server, query, page):
    browser.open(f"{server[0]}search.html?q={query}")
    found = browser.run(f"({SEARCHED})({page!r})")
    assert any(href.startswith(page) for href in found), found


FAULTY = """<!doctype html><title>All that is wrong</title>
<style>
  body { background: white; color: #aaa; }
  @media (prefers-color-scheme: dark) { body { background: black; color: #333; } }
</style>
<article>
<p>Pale. And raw: \\(x^2\\)</p>
<div style="width: 2000px; color: black; background: white">Wide</div>
<div class="math">nothing</div>
<img src="_static/favicon.svg"><img src="nowhere.png" alt="of nowhere">
<div class="highlight"><pre>code</pre></div>
</article>
<script>console.error("oh"); fetch("https://example.invalid/")</script>
"""


@needs_browser
def test_each_fault_is_found(browser, server):
    site, folder = server
    (folder / "faulty.html").write_text(FAULTY, "utf-8")
    found = faults(browser, f"{site}faulty.html")
    assert found["on a phone"][0].startswith("20")
    assert len(found["maths"]) == 2
    assert len(found["images"]) == 2
    assert found["buttons"] == ["code"]
    assert "Pale" in str(found["light"])
    assert "Pale" in str(found["dark"])
    told = " ".join(found["errors"])
    for text in ("oh", "https://example.invalid/", "404 of"):
        assert text in told
