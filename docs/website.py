"""For mkdocs: files of the site that lie outside of docs/, and docstrings, which are plain text, as Markdown."""

import html
import pathlib
import re
import textwrap

import griffe
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent

# Place in the site -> file, where whoever browses the repository looks for it.
OUTSIDE = {
    "CHANGELOG.md": "CHANGELOG.md",
    "bench/RESULTS.md": "bench/RESULTS.md",
    **{
        f"shipped/{path.name}": f"octsod/shipped/{path.name}"
        for path in sorted((ROOT / "octsod" / "shipped").iterdir()) if path.suffix in (".md", ".png", ".jpg")
    },
}  # fmt: skip


def on_files(files, config):
    for place, path in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that leave docs/ for such a file lead to its place in the site."""
    for place, path in OUTSIDE.items():
        markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./{re.escape(path)}", rf"](\1{place}", markdown)
    return markdown


class PlainText(griffe.Extension):
    """Docstrings as Markdown: stars and brackets stay what they are, names of parameters and attributes that are
    explained (`name: meaning`) stand out, code in backticks leads to what it names, if that is in the reference."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = as_markdown(dedented(obj.docstring.value), obj)


def dedented(text):
    first, _, rest = text.partition("\n")
    return f"{first}\n{textwrap.dedent(rest)}".strip()


def as_markdown(text, obj):
    known, parts = explained_names(obj), []
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith((">>>", "    ")):
            parts.append(textwrap.indent(textwrap.dedent(paragraph), "    "))
        else:
            parts.append(prose(paragraph, known, obj))
    return "\n\n".join(parts)


def explained_names(obj):
    """What the docstring of a function or a class may explain."""
    names = {parameter.name for parameter in obj.parameters} if obj.is_function or obj.is_class else set()
    return names | (obj.members.keys() if obj.is_class else set())


def prose(text, known, obj):
    code = re.split(r"(`[^`]*`)", text)
    for k, part in enumerate(code):
        code[k] = linked(part[1:-1], obj) if k % 2 else plain(part, known)
    return "".join(code)


def plain(text, known):
    text = re.sub(r"([\\*_\[\]<>#|])", r"\\\1", text)

    def mark(match):
        names = match[2].replace("\\", "").split(", ")
        if not known.issuperset(names):
            return match[0]
        return match[1] + ", ".join(f"**{name}**".replace("_", "\\_") for name in names) + ": "

    return re.sub(r"((?:^|[.;:]\s+|\)\s+))((?:[A-Za-z\\_0-9]+, )*[A-Za-z\\_0-9]+): ", mark, text)


def linked(code, obj):
    shown = f"<code>{html.escape(code)}</code>"
    name = re.fullmatch(r"[A-Za-z_][\w.]*", code)
    try:
        path = obj.resolve(code) if name else None
    except (griffe.NameResolutionError, KeyError):
        path = f"octsod.{code.removeprefix('octsod.')}" if "." in code else None
    return f'<autoref optional identifier="{path}">{shown}</autoref>' if path else shown
