"""Writes data/goldens/parquet: the same records as Parquet, by pyarrow, and as JSON lines.

Run from anywhere: python scripts/goldens/parquet_files.py
"""

import datetime
import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parents[2] / "data/goldens/parquet"

CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
CHATS = [
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "2 + 3?"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "5 – é"},
        ]
    },
]
COMPLETIONS = [
    {"prompt": f"what is {i}?", "completion": f"it is {i}\n", "category": f"number/{i % 3}"}
    for i in range(200)
]
TEXTS = [{"text": "one"}, {"text": "two, three"}]


def write(name, records, table, **options):
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pq.write_table(table, FOLDER / f"{name}.parquet", **options)


FOLDER.mkdir(parents=True, exist_ok=True)
write("chats", CHATS, pa.Table.from_pylist(CHATS), compression="snappy")
# Several row groups and pages, a dictionary, a column that is no record's.
completions = pa.Table.from_pylist(COMPLETIONS).append_column(
    "score", pa.array([None if i % 2 else i / 7 for i in range(len(COMPLETIONS))])
)
write("completions", COMPLETIONS, completions, compression="zstd", row_group_size=60)
# A writer that doesn't say that its bytes are text.
texts = pa.table({"text": pa.array([r["text"].encode() for r in TEXTS], pa.binary())})
write("texts", TEXTS, texts, compression="gzip", data_page_version="2.0")
# The compressions that are left, each over pages long enough to be worth it.
for compression in ["gzip", "brotli", "lz4"]:
    pq.write_table(completions, FOLDER / f"{compression}.parquet", compression=compression)
# A cell of each kind, and a row that has none.
kinds = {
    "text": pa.array(["one", "two"]),
    "small": pa.array([-7, None], pa.int64()),
    "large": pa.array([2**53 + 1, None], pa.uint64()),
    "share": pa.array([0.5, None], pa.float32()),
    "yes": pa.array([True, None]),
    "day": pa.array([datetime.date(2026, 11, 26), None]),
    "at": pa.array([datetime.datetime(2026, 11, 26, 12, 30), None], pa.timestamp("us")),
    "money": pa.array([decimal.Decimal("12.50"), None], pa.decimal128(10, 2)),
    "image": pa.array([b"\xff\xd8", None], pa.binary()),
    "list": pa.array([[1, 2], None], pa.list_(pa.int64())),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    "nested": pa.array([{"deep": [{"x": "y", "z": None}]}, None],
        pa.struct({"deep": pa.list_(pa.struct({"x": pa.string(), "z": pa.string()}))})),
}
pq.write_table(pa.table(kinds), FOLDER / "kinds.parquet", compression="snappy")
