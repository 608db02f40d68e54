"""The versions of CHANGELOG.md, for the release's scripts."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>.+))?$", re.MULTILINE)
DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class Wrong(Exception):
    """A release must not go out like this."""


@dataclass(frozen=True)
class Section:
    """The changes of a version."""

    version: str
    date: str | None
    text: str


def sections(changelog: str) -> dict[str, Section]:
    """The sections by version, the newest first."""
    headings = list(HEADING.finditer(changelog))
    ends = [*(heading.start() for heading in headings[1:]), len(changelog)]
    found = {}
    for heading, end in zip(headings, ends, strict=True):
        section = Section(heading["version"], heading["date"], changelog[heading.end() : end].strip())
        if section.version in found:
            raise Wrong(f"CHANGELOG.md has two sections [{section.version}]; merge them")
        found[section.version] = section
    return found


def section_of(version: str, changelog: str) -> Section:
    found = sections(changelog)
    if version not in found:
        raise Wrong(f"CHANGELOG.md has no section [{version}]; it has {', '.join(found) or 'none'}")
    if not found[version].text:
        raise Wrong(f"CHANGELOG.md has nothing below [{version}]; write what the version changes")
    return found[version]


def check_tag(tag: str, versions: dict[str, str], changelog: str) -> str:
    """The version of the tag, if all packages and the changelog are at it.

    `versions` are those of the packages, by name.
    """
    version = tag.removeprefix("v")
    if version == tag:
        hint = f"; write 'v{tag}'" if tag[:1].isdigit() else ""
        raise Wrong(f"the tag '{tag}' is not 'v' and a version{hint}")
    other = {name: its for name, its in versions.items() if its != version}
    if other:
        listed = ", ".join(f"{name} {its}" for name, its in other.items())
        raise Wrong(f"the tag is {tag}, but Cargo.toml has {listed}; change one of them")
    section = section_of(version, changelog)
    if not DATE.fullmatch(section.date or ""):
        raise Wrong(f"CHANGELOG.md has '{section.date}' beside [{version}]; write the day of the release, as 2026-12-31")
    return version


def package_versions() -> dict[str, str]:
    """The versions of the packages that are published: crates, and the wheel."""
    command = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.check_output(command, cwd=TOP))["packages"]
    # The wheel has the version of its crate, which goes to no registry of crates.
    return {p["name"]: p["version"] for p in packages if p["publish"] != [] or p["name"] == "connector-python"}


def read() -> str:
    return (TOP / "CHANGELOG.md").read_text()
