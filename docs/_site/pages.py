"""Files of the repository that lie outside docs/ as pages of the site, and links between the two.

A page is written for those who read it in the repository: it links ``../README.md`` or ``docs/attacks.md``. Here these
links are turned to where the same file stands in the site, so that no text has to stand twice.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

OUTSIDE = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/federated-ser/README.md": "examples/federated-ser.md",
    "examples/plug-in/README.md": "examples/plug-in.md",
}
"""Files outside docs/, by their path in the repository, and the pages that they become."""

_IN_SITE = {page: source for source, page in OUTSIDE.items()}
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|``.+?``|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside docs/."""
    from mkdocs.structure.files import File

    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "reference/cli.md", content=command_line()))
    return files


def command_line() -> str:
    """Return the page of the command's options, from the command itself."""
    import typer
    from click import Context

    from fl_privacy.cli import app

    group: Any = typer.main.get_command(app)
    context = Context(group, info_name="fl-privacy")
    lines = ["# Command line", "", group.help, ""]
    for name, command in group.commands.items():
        inner = Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [f"## {name}", "", f"`fl-privacy {name} {usage}`", "", command.help, ""]
        lines += ["| | | default |", "|---|---|---|"]
        for parameter in command.params:
            called = parameter.metavar if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
            told = parameter.default if type(parameter.default) in (int, float, str) else ""
            lines.append(f"| `{called or parameter.name.upper()}` | {parameter.help or ''} | {told} |")
        lines.append("")
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between docs/ and the rest of the repository into links between pages."""
    name = page.file.src_uri
    return linked(markdown, _IN_SITE.get(name, f"docs/{name}"), name)


def linked(markdown: str, source: str, page: str) -> str:
    """Return a page's text with its links as they have to be in the site.

    Parameters
    ----------
    markdown : str
    source : str
        The file's path in the repository, to which its links are relative.
    page : str
        The page's path in the site.
    """
    code: list[str] = []

    def aside(found: re.Match[str]) -> str:
        code.append(found[0])
        return f"\0{len(code) - 1}\0"

    # What stands in code is no link; a link's text may hold code.
    text = _LINK.sub(lambda found: _link(found, source, page), _CODE.sub(aside, markdown))
    return re.sub("\0(\\d+)\0", lambda found: code[int(found[1])], text)


def _link(found: re.Match[str], source: str, page: str) -> str:
    target, _, anchor = found["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in OUTSIDE:
        there = OUTSIDE[path]
    elif f"{path}/README.md" in OUTSIDE:
        there = OUTSIDE[f"{path}/README.md"]
    elif path.startswith("docs/"):
        there = path.removeprefix("docs/")
    elif (ROOT / path).exists():
        return found["text"]  # no page of the site; in the repository it is one click away
    else:
        return found[0]  # the build says that it leads nowhere
    there = posixpath.relpath(there, posixpath.dirname(page) or ".")
    return f"[{found['text']}]({there}{'#' + anchor if anchor else ''})"
