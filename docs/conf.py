import html
import re
from pathlib import Path

import matplotlib.style
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

import xmodal_losses
import xmodal_losses.dense
import xmodal_losses.diagnostics
import xmodal_losses.functional
import xmodal_losses.kernels
import xmodal_losses.two_sample

project = "xmodal-losses"
author = "The xmodal-losses authors"
project_copyright = f"2026, {author}"
release = version = xmodal_losses.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "gallery"]  # sources, of which the pages are auto_gallery

# Pages are Markdown, docstrings are reStructuredText in Google's sections.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shape", "notes_style"), ("State", "notes_style")]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 72

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

# Links to torch and Python would need their inventories, and the build needs no
# network; the engines are not public.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|collections\.abc)\..*"),
    ("py:.*", r"xmodal_losses\._core\..*"),
]

# Formulas are MathML in the page: they need no script, and no network to be read.
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
pygments_dark_style = "github-dark"  # furo's own underlines modules, as if links
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


# Every example is executed, and one that fails is an error of the build. They share a
# style, which nothing resets between them; times would make two builds differ.
matplotlib.use("agg")
matplotlib.style.use(Path(__file__).with_name("gallery.mplstyle"))
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "backreferences_dir": "auto_gallery/backreferences",
    "doc_module": ("xmodal_losses",),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "reset_modules": (),
    "image_srcset": ["2x"],
    "thumbnail_size": (480, 480),
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "min_reported_time": 3600,
    "write_computation_times": False,
    "capture_repr": (),
    "remove_config_comments": True,
}


def public_names():
    """Map where an object is defined to where its users import it from."""
    names = {}
    for module in (
        xmodal_losses.functional,
        xmodal_losses.kernels,
        xmodal_losses.dense,
        xmodal_losses.diagnostics,
        xmodal_losses.two_sample,
        xmodal_losses,
    ):
        for name in module.__all__:
            home = getattr(getattr(module, name), "__module__", None)
            if home:
                names[f"{home}.{name}"] = f"{module.__name__}.{name}"
    return names


def link_public_name(app, env, node, contnode):
    """Resolve a link to `xmodal_losses.<family>.<file>.X` as one to `X`.

    Annotations and docstrings name the file an object is defined in, or just the
    object; the site documents the public spelling.
    """
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"]
    target = PUBLIC.get(name) or PUBLIC.get(f"{node.get('py:module')}.{name}")
    if target is None:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", target, node, contnode
    )


def check_every_public_name_has_a_page(app, env):
    """Warn, which fails the build, where nothing documents what users can import."""
    documented = env.get_domain("py").objects
    for name in PUBLIC.values():
        if name not in documented:
            logging.getLogger(__name__).warning("%s is on no page", name)


def describe(app, pagename, templatename, context, doctree):
    """Tell search engines what a page is about: its first paragraph."""
    if doctree is None:
        return
    first = next(doctree.findall(nodes.paragraph), None)
    text = " ".join((first or doctree).astext().split())
    if len(text) > 160:
        text = text[:160].rsplit(" ", 1)[0] + " …"
    description = html.escape(text, quote=True)
    context["metatags"] += f'\n<meta name="description" content="{description}">'


def lead_back(app, pagename, templatename, context, doctree):
    """Let sources link to where what they define is documented.

    Sphinx takes all of a file to be documented under the module of the first one.
    """
    if not pagename.startswith("_modules/"):
        return
    file = pagename.removeprefix("_modules/").replace("/", ".")
    for home, name in PUBLIC.items():
        module, _, short = home.rpartition(".")
        if module == file:
            link = rf'(class="viewcode-back" href="[^"#]*#)[\w.]*\.{short}(?=[".])'
            context["body"] = re.sub(link, rf"\g<1>{name}", context["body"])


def mathml(node, display):
    """Translate a formula; what the converter does not know is a warning."""
    tex = node.astext()
    if r"\\" in tex:
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    out = convert(tex, display=display)
    if re.search(r"\\|<m\w>&</", out):  # commands are left as they stood
        logging.getLogger(__name__).warning("cannot show %s", tex, location=node)
    return out


def visit_math(self, node):
    self.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    self.body.append(f'<div class="math">{mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


PUBLIC = public_names()


def setup(app):
    app.connect("missing-reference", link_public_name)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", lead_back)
    app.connect("env-check-consistency", check_every_public_name_has_a_page)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
