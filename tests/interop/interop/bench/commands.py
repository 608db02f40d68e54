"""kvconn's stores without Python: `kvconn bench`, which moves one batch at a time and verifies every byte."""

import json

from .. import command
from .figures import BATCHES, Figure, Round


class Command:
    """Starts a new process in each round."""

    def __init__(self, url: str, size: int, n: int) -> None:
        self.args = ["bench", url, "--chunk-size", str(size), "--keys", str(n), "--batch", str(n), "--rounds", str(BATCHES), "--json"]

    def round(self) -> Round:
        """Measures each operation several times, after a warm-up."""
        store = json.loads(command.succeed(*self.args).stdout)["stores"][0]
        moved = {name: Figure(store[name]["gib_per_s"], store[name]["cpu_s_per_gib"]) for name in ("get", "put")}
        exists = store["exists"]
        return moved | {"exists": Figure(exists["per_s"], exists["cpu_s"] / exists["operations"] * 1e6)}

    def close(self) -> None:
        """Does nothing: no process runs between rounds."""
