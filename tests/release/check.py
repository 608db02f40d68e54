"""Checks the files of a release without running them. `tests/release/wheel` calls it.

The wheel: its name, size, licences and metadata. The sdist: the crates, and the licence. Both binaries: no debug
information, and none of FOLDER, the folders of the machine that built them.
"""

import argparse
import re
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile
from trove_classifiers import classifiers, deprecated_classifiers

TOP = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((TOP / "Cargo.toml").read_text())["workspace"]["package"]["version"]
LARGEST_WHEEL = 20_000_000
LICENCES = ["LICENSE", "THIRD-PARTY-LICENSES"]
CRATES = ["connector-cli", "connector-core", "connector-macros", "connector-python", "connectors"]


def of_binary(name: str, data: bytes, folders: list[str]) -> list[str]:
    elf = ELFFile(BytesIO(data))
    sections = [section.name for section in elf.iter_sections()]
    found = [f"{name}: has the section {section}" for section in sections if section == ".symtab" or "debug" in section]
    for folder in folders:
        # Not a part of a longer name: `/root` is not in `/rooted`.
        at = re.search(re.escape(folder.encode()) + rb"(?![\w.-])", data)
        if at:
            text = re.split(rb"[^ -~]", data[at.start() : at.start() + 200])[0].decode()
            found.append(f"{name}: has a folder of this machine: {text}")
    return found


def of_metadata(metadata: Message) -> list[str]:
    found = []
    wanted = {"Name": "kvconn", "Version": VERSION, "License-Expression": "Apache-2.0", "Requires-Python": ">=3.11"}
    for name, value in wanted.items():
        if metadata[name] != value:
            found.append(f"metadata: {name} is {metadata[name]!r}, not {value!r}")
    for name in metadata.get_all("Classifier", []):
        if name not in classifiers or name in deprecated_classifiers:
            found.append(f"metadata: the index does not know the classifier {name!r}")
    for name in ("Classifier", "Keywords", "Provides-Extra", "Summary"):
        if not metadata.get_all(name):
            found.append(f"metadata: has no {name}")
    urls = [value.split(",")[0] for value in metadata.get_all("Project-URL", [])]
    if sorted(urls) != ["Changelog", "Documentation", "Homepage", "Issues", "Repository"]:
        found.append(f"metadata: the addresses are {urls}")
    if not re.match(r"text/markdown\b", metadata["Description-Content-Type"] or ""):
        found.append(f"metadata: the description is {metadata['Description-Content-Type']!r}")
    return found


def of_wheel(wheel: Path, tag: str, folders: list[str]) -> list[str]:
    found = []
    if wheel.name != f"kvconn-{VERSION}-cp311-abi3-{tag}.whl":
        found.append(f"{wheel.name}: the tags are not cp311-abi3-{tag}")
    if wheel.stat().st_size > LARGEST_WHEEL:
        found.append(f"{wheel.name}: has {wheel.stat().st_size:,} bytes, more than {LARGEST_WHEEL:,}")
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        information = f"kvconn-{VERSION}.dist-info"
        metadata = BytesParser().parsebytes(files.read(f"{information}/METADATA"))
        found += of_metadata(metadata)
        if sorted(metadata.get_all("License-File", [])) != LICENCES:
            found.append(f"{wheel.name}: the licence files are {metadata.get_all('License-File')}, not {LICENCES}")
        for name in LICENCES:
            if f"{information}/licenses/{name}" not in names:
                found.append(f"{wheel.name}: has no {information}/licenses/{name}")
        for name in ("kvconn/py.typed", "kvconn/__init__.py", f"{information}/entry_points.txt"):
            if name not in names:
                found.append(f"{wheel.name}: has no {name}")
        libraries = [name for name in names if re.search(r"\.so(\.|$)", name)]
        if libraries != ["kvconn/_kvconn.abi3.so"]:
            found.append(f"{wheel.name}: the libraries are {libraries}")
        for name in names:
            data = files.read(name)
            if name in libraries:
                found += of_binary(name, data, folders)
            else:
                found += [f"{name}: has a folder of this machine: {folder}" for folder in folders if folder.encode() + b"/" in data]
    return found


def of_sdist(sdist: Path) -> list[str]:
    with tarfile.open(sdist) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    wanted = ["Cargo.lock", "Cargo.toml", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"]
    wanted += [f"{crate}/Cargo.toml" for crate in CRATES]
    return [f"{sdist.name}: has no {name}" for name in wanted if name not in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--sdist", type=Path, required=True)
    parser.add_argument("--program", type=Path, required=True, help="the command")
    parser.add_argument("--platform", required=True, help="such as manylinux_2_28")
    parser.add_argument("--machine", required=True, help="such as x86_64")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a folder that no binary may name")
    given = parser.parse_args()
    found = of_wheel(given.wheel, f"{given.platform}_{given.machine}", given.folders)
    found += of_sdist(given.sdist)
    found += of_binary(str(given.program.name), given.program.read_bytes(), given.folders)
    if found:
        sys.exit("\n".join(f"tests/release/check.py: {problem}" for problem in found))
    print(f"{given.wheel.name}: {given.wheel.stat().st_size:,} bytes, no debug information, no folder of this machine")


if __name__ == "__main__":
    main()
