"""Captioned videos to train on and to compare with: LV-Bench's schema, the forms of its peers, its split, its Table 1.

docs/lvbench.md describes all of it. Nothing here fetches the data set.
"""

from blockvid.lvbench.entry import CLASSES, Entry, ObjectClass, Part, Segment, schema_text
from blockvid.lvbench.forms import Form, read, write
from blockvid.lvbench.generations import Generations, find_generations
from blockvid.lvbench.split import Split, split
from blockvid.lvbench.table import TABLE_1, Row, statistics

__all__ = [
    "CLASSES",
    "TABLE_1",
    "Entry",
    "Form",
    "Generations",
    "ObjectClass",
    "Part",
    "Row",
    "Segment",
    "Split",
    "find_generations",
    "read",
    "schema_text",
    "split",
    "statistics",
    "write",
]
