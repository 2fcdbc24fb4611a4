"""Write comments.parquet, a small made-up forum dump, from comments.jsonl.

The texts, their forum and their language come from ``comments.jsonl``; all other columns are
drawn here from a fixed seed, so the table is the same at every run. The ``toxic`` label of the
JSON lines is for checks only and does not go into the Parquet file.

    python examples/make_comments.py [OUTPUT]
"""

import json
import random
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
SEED = 7
ROW_GROUPS = 3
AUTHORS = [
    "old_cartographer",
    "dana_k",
    "cabletidy",
    "lumen_plays",
    "tin.whistle",
    "harbour_jo",
    "k3ttle",
    "Østerlie",
    "雪見",
    "u_48213",
    "nine-pins",
]
TAGS = ["question", "answer", "bug", "review", "off-topic", "how-to", "news"]
CLIENTS = ["web", "android", "ios", "api"]
LINK = re.compile(r"https?://\S+")

SCHEMA = pa.schema(
    [
        pa.field("comment_id", pa.string(), nullable=False),
        pa.field("created_at", pa.timestamp("ms", tz="UTC")),
        pa.field("author", pa.string()),
        pa.field("forum", pa.dictionary(pa.int32(), pa.string())),
        pa.field("text", pa.string()),
        pa.field("score", pa.int32()),
        pa.field("up_ratio", pa.float64()),
        pa.field("edited", pa.bool_()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field(
            "meta",
            pa.struct([("client", pa.string()), ("lang", pa.string()), ("n_links", pa.int32())]),
        ),
    ],
    metadata={"export": "forum-dump v3", "source": "made up for the sro-edge examples"},
)


def make_row(number: int, comment: dict[str, Any], when: datetime, rng: random.Random) -> list[Any]:
    """Return the values of one row, in the order of the schema."""
    text: str | None = comment["text"]
    gone = text is None or text in ("[deleted]", "[removed]")
    ratio: float | None = round(rng.uniform(0.05, 1.0), 3)
    chance = rng.random()
    if chance < 0.05:
        ratio = float("nan")
    elif chance < 0.15:
        ratio = None
    meta = {
        "client": rng.choice(CLIENTS),
        "lang": comment["lang"],
        "n_links": len(LINK.findall(text or "")),
    }
    return [
        f"c{rng.getrandbits(24):06x}-{number:04d}",
        when,
        "[deleted]" if gone else rng.choice(AUTHORS),
        comment["forum"],
        text,
        None if rng.random() < 0.08 else int(rng.gauss(6, 14)),
        ratio,
        rng.choice([True, False, False, False, None]),
        None if rng.random() < 0.1 else rng.sample(TAGS, rng.choice([0, 0, 1, 1, 2, 3])),
        None if rng.random() < 0.06 else meta,
    ]


def build(comments: list[dict[str, Any]]) -> pa.Table:
    """Return the comments as a table with the columns of a forum export."""
    rng = random.Random(SEED)
    when = datetime(2024, 3, 1, 6, 0, tzinfo=UTC)
    rows = []
    for number, comment in enumerate(comments):
        when += timedelta(milliseconds=rng.randrange(1_000, 14_400_000))
        rows.append(make_row(number, comment, when, rng))
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def main() -> None:
    """Read comments.jsonl and write the Parquet file."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "comments.parquet"
    # not splitlines(), which would also split at separators inside a text
    lines = (HERE / "comments.jsonl").read_text(encoding="utf-8").strip("\n").split("\n")
    table = build([json.loads(line) for line in lines])
    group = -(-table.num_rows // ROW_GROUPS)
    pq.write_table(table, target, compression="zstd", row_group_size=group)
    print(f"{target}: {table.num_rows} rows, {table.num_columns} columns")


if __name__ == "__main__":
    main()
