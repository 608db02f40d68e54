"""kvconn's tier in vLLM's real `TieringOffloadingManager`. vLLM's own fs tier runs through the same checks."""

from . import bytes, calls, faults, files, hashes, options, outages, page

GROUPS = {
    "smoke": bytes.smoke,
    "bytes": bytes.run,
    "topologies": bytes.topologies,
    "faults": faults.run,
    "outages": outages.run,
    "options": options.run,
    "hashes": hashes.run,
    "files": files.run,
    "calls": calls.run,
    "page": page.run,
}
SMOKE = ("smoke",)
