"""How many samples a row group has, where a row may hold several images, and how many images have no row.

The footer says it where it counts the nulls of the columns and a row without an image cannot hide in these counts; else
the images are read once to count them.
"""

from contextlib import closing
from dataclasses import dataclass

from recap_fast.records import Selection
from recap_fast.shards.table.file import TableFile, shard_errors
from recap_fast.shards.table.layout import Layout, find_layout
from recap_fast.shards.table.rows import ImageRows


@dataclass(frozen=True, slots=True)
class ImageCount:
    """Of a row group."""

    num_samples: int
    num_left_out: int
    """Images of its rows that are none of the samples."""


def count_in_footers(url: str, selection: Selection) -> tuple[int, bool]:
    """The samples of a file, and whether that is all: a row whose images the footer does not count is one sample here.

    Raises ShardError, and ConfigError where a column that the user names is not there.
    """
    with closing(TableFile(url)) as table, shard_errors():
        rows = [table.group_rows(group) for group in range(table.num_groups)]
        if selection.images == "first" or selection.image_key is not None:
            return sum(rows), True
        layout = find_layout(table, selection)
        told = [_in_footer(table, layout, group, takes_all=True) for group in range(table.num_groups)]
    samples = [num if count is None else count.num_samples for num, count in zip(rows, told, strict=True)]
    return sum(samples), None not in told


def count_images(table: TableFile, layout: Layout, group: int, *, takes_all: bool) -> ImageCount:
    """Counts samples: one a row, or `takes_all`, one an image and one for a row without any."""
    told = _in_footer(table, layout, group, takes_all=takes_all)
    return told or _counted(table, group, _of_images(table, layout, group), takes_all=takes_all)


def _in_footer(table: TableFile, layout: Layout, group: int, *, takes_all: bool) -> ImageCount | None:
    """The same without reading an image; None where the footer does not say it."""
    num_rows = table.group_rows(group)
    if not layout.further and len(layout.images) == 1 and not layout.images[0].is_list:
        return ImageCount(num_rows, 0)
    found = _of_footer(table, layout, group, num_rows)
    return None if found is None else _counted(table, group, found, takes_all=takes_all)


def _counted(table: TableFile, group: int, found: tuple[int, int, int], *, takes_all: bool) -> ImageCount:
    chosen, others, num_without = found
    if takes_all:
        return ImageCount(chosen + num_without, 0)
    num_rows = table.group_rows(group)
    return ImageCount(num_rows, chosen + others - (num_rows - num_without))


def _of_footer(table: TableFile, layout: Layout, group: int, num_rows: int) -> tuple[int, int, int] | None:
    """Images in the columns that are captioned, in others, and rows that have none of the former."""
    found = [table.num_entries(each.leaf, group) for each in (*layout.images, *layout.further)]
    known = [entries for entries in found if entries is not None]
    if len(known) < len(found):
        return None
    totals = [num_entries - num_nulls for num_entries, num_nulls in known]
    nulls = [num_nulls for _, num_nulls in known[: len(layout.images)]]
    for each, (num_entries, _) in zip((*layout.images, *layout.further), known, strict=True):
        if num_entries < num_rows or (num_entries > num_rows and not each.is_list):
            return None
    if min(nulls) == 0:
        num_without = 0
    elif len(layout.images) == 1 and not layout.images[0].is_list:
        num_without = nulls[0]
    else:
        return None
    return sum(totals[: len(nulls)]), sum(totals[len(nulls) :]), num_without


def _of_images(table: TableFile, layout: Layout, group: int) -> tuple[int, int, int]:
    """The same by reading. A row that cannot be read counts as one with an image."""
    num_rows = table.group_rows(group)
    chosen = ImageRows(table, layout.images, group, takes_all=True)
    num_chosen = num_without = num_others = 0
    for row in range(num_rows):
        found = chosen.at(row)
        if found is None:
            num_chosen += num_rows - row if chosen.damage else 0
            break
        num_images = sum(cell.content is not None for cell in found)
        num_chosen += num_images
        num_without += num_images == 0
    for further in layout.further:
        images = ImageRows(table, (further,), group, takes_all=True)
        for row in range(num_rows):
            if (found := images.at(row)) is None:
                break
            num_others += sum(cell.content is not None for cell in found)
    return num_chosen, num_others, num_without
