// @ts-check
/** Data files: Parquet's rows, and what is wrong with a file. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { failing, load } from "./assemble.mjs";

/** @type {typeof import("../../../src/web/js/data.js")} */
const { readBlob, readExamples } = await load("data.js");

const GOLDENS = fileURLToPath(new URL("../../../data/goldens/parquet", import.meta.url));
const golden = (/** @type {string} */ name) => readFile(join(GOLDENS, name));
const read = async (/** @type {string} */ name) => readExamples(new File([await golden(name)], name));

test("rows of a Parquet file are the records that were written", async () => {
    for (const name of ["chats", "texts"]) {
        assert.deepEqual(await read(`${name}.parquet`), await read(`${name}.jsonl`), name);
    }
    // Of several row groups, with a column whose cells are sometimes empty.
    const lines = await read("completions.jsonl");
    const scored = lines.map((line, i) => (i % 2 ? line : { ...line, score: i / 7 }));
    for (const name of ["completions", "gzip", "brotli", "lz4"]) {
        assert.deepEqual(await read(`${name}.parquet`), scored, name);
    }
    // Of row groups of 60 those that have enough.
    const most = await readBlob("x.parquet", new Blob([await golden("completions.parquet")]), 61);
    assert.deepEqual(most, scored.slice(0, 120));
    const bytes = new Uint8Array(await golden("texts.parquet"));
    assert.equal((await readExamples({ name: "named.PARQUET", bytes })).length, 2);
});

test("every kind of cell becomes JSON", async () => {
    const [row, none] = await read("kinds.parquet");
    assert.deepEqual(row, {
        text: "one",
        small: -7,
        large: "9007199254740993",
        share: 0.5,
        yes: true,
        day: "2026-11-26T00:00:00.000Z",
        at: "2026-11-26T12:30:00.000Z",
        money: 12.5,
        list: [1, 2],
        map: { a: 1 },
        nested: { deep: [{ x: "y" }] },
    });
    assert.deepEqual(none, { text: "two" });
});

test("a file that can't be read says so in one line, with its name", async () => {
    const whole = await golden("completions.parquet");
    const end = whole.length;
    const cuts = [whole.subarray(0, 0), whole.subarray(0, end / 2), whole.subarray(0, end - 1), whole.subarray(end / 2)];
    for (const bytes of [...cuts, Buffer.from("PAR1"), Buffer.alloc(100, "PAR1")]) {
        await assert.rejects(readExamples({ name: "x.parquet", bytes }), failing("format", /^x\.parquet: no Parquet file/));
    }
    const text = new TextEncoder().encode('{"text": "a"}\n{"none": 1}\n');
    await assert.rejects(readExamples({ name: "x.jsonl", bytes: text }), failing("data", /^x\.jsonl:2: a record/));
    await assert.rejects(readExamples({ name: "x.txt", bytes: text }), failing("data", /^x\.txt: no \.jsonl/));
    await assert.rejects(readExamples({ name: "x.csv", bytes: Uint8Array.of(0xff) }), failing("format", /^x\.csv: not UTF-8/));
    const large = new Proxy(new File([], "x.csv"), { get: (file, key) => (key === "size" ? 1e9 : Reflect.get(file, key)) });
    await assert.rejects(readExamples(large), failing("data", /^x\.csv: its 1000000000 bytes/));
});

test("damage is an error or another record", async () => {
    for (const name of ["chats", "completions", "texts", "gzip", "brotli", "lz4"]) {
        const whole = await golden(`${name}.parquet`);
        for (let i = 0; i < 200; i++) {
            const bytes = Uint8Array.from(whole);
            const at = (i * 7919) % bytes.length;
            bytes[at] = /** @type {number} */ (bytes[at]) ^ (1 << (i % 8));
            await readExamples({ name: "x.parquet", bytes }).catch(failing("format", /^x\.parquet: no Parquet file/));
        }
    }
});
