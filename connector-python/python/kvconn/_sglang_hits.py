"""Which prefixes can be restored, from the pages that a store has. Source: ``PoolHitPolicy`` of SGLang's ``hicache_storage.py``."""

from __future__ import annotations

from collections.abc import Sequence


def leading(present: Sequence[bool]) -> int:
    """The length of the leading run."""
    return next((place for place, found in enumerate(present) if not found), len(present))


def all_pages(present: Sequence[bool]) -> set[int]:
    """The lengths of the prefixes, in pages, of which a pool has every page."""
    return set(range(1, leading(present) + 1))


def trailing_pages(present: Sequence[bool], window: int) -> set[int]:
    """The lengths of the prefixes, in pages, of which a pool has the last `window` pages."""
    found, run = set(), 0
    for place, here in enumerate(present):
        run = run + 1 if here else 0
        if run >= min(window, place + 1):
            found.add(place + 1)
    return found


def block_groups(present: Sequence[bool], group_pages: int, block_pages: int) -> int:
    """The number of pages that the leading complete groups cover.

    `present` has `group_pages` answers for each group, and a group covers `block_pages` pages.
    """
    if group_pages < 1 or block_pages < 1:
        return 0
    return leading(present) // group_pages * block_pages
