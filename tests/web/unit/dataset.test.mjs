// @ts-check
/** Data sets of the hub: which files they are, what is taken of them, over a real server. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";

import { serve } from "../server.mjs";
import { failing, load } from "./assemble.mjs";

/** @type {typeof import("../../../src/web/js/cache.js")} */
const { cache } = await load("cache.js");
/** @type {typeof import("../../../src/web/js/dataset.js")} */
const { loadDataset } = await load("dataset.js");
/** @type {typeof import("../../../src/web/js/layout.js")} */
const { isData, setOfPath, standing } = await load("layout.js");
/** @type {typeof import("../../../src/web/js/packages.js")} */
const { vendor } = await load("packages.js");
/** @type {typeof import("../../../src/web/js/parts.js")} */
const { choose, configsOf } = await load("parts.js");
/** @type {typeof import("../../../src/web/js/slice.js")} */
const { mostNeeded, rangeOf, splitSlice } = await load("slice.js");
const { parseYaml } = await vendor();

const TWO = `---
license: mit
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test_sft
    path: [main/test-*]
- config_name: other
  data_dir: o
  data_files: "*.csv"
---
# A data set
`;

const PARQUET = fileURLToPath(new URL("../../../data/goldens/parquet/completions.parquet", import.meta.url));
const parquet = await readFile(PARQUET);
const lines = (/** @type {string[]} */ ...texts) => texts.map(text => `${JSON.stringify({ text })}\n`).join("");
const listing = (/** @type {Record<string, number>} */ files) =>
    JSON.stringify({ sha: "abc", siblings: Object.entries(files).map(([rfilename, size]) => ({ rfilename, size })) });
const api = (/** @type {string} */ id, revision = "main") => `/api/datasets/${id}/revision/${revision}?blobs=true`;
const listed = "/api/datasets/o/one/revision/main";
const at = "/datasets/o/one/resolve/abc";
const one = { "data/train-0.jsonl": lines("a", "b"), "data/train-1.jsonl": lines("c", "d"), "data/test.jsonl": lines("t") };
const sizes = Object.fromEntries(Object.entries(one).map(([name, text]) => [name, text.length]));
const server = await serve({
    root: fileURLToPath(new URL(".", import.meta.url)),
    texts: {
        [api("o/one")]: listing({ ...sizes, "../evil.jsonl": 1, "notes.txt": 1 }),
        ...Object.fromEntries(Object.entries(one).map(([name, text]) => [`${at}/${name}`, text])),
        [api("o/two")]: listing({ "README.md": TWO.length, "main/train-0.parquet": parquet.length, "o/a.csv": 7 }),
        "/datasets/o/two/resolve/abc/README.md": TWO,
        [api("o/conv", "refs%2Fconvert%2Fparquet")]: listing({ "default/train/0000.parquet": parquet.length }),
        [api("o/large")]: listing({ "train.parquet": 3e8, "a.csv": 7 }),
        [api("o/empty")]: listing({ "train.txt": 3 }),
        [api("o/odd")]: "[]",
        "/lines.jsonl": lines("x", "y"),
        "/page.csv.html": "",
        "/bad.parquet": "<!doctype html>",
    },
    files: {
        "/datasets/o/two/resolve/abc/main/train-0.parquet": PARQUET,
        "/datasets/o/conv/resolve/abc/default/train/0000.parquet": PARQUET,
    },
});
after(() => server.close());
beforeEach(async () => {
    await cache.clear();
    server.faults.clear();
    server.requests.length = 0;
});

// ---- names: the cases are the native runner's (`native-runner/src/dataset`)

test("names say the set", () => {
    for (const [path, set] of /** @type {const} */ ([
        ["train.jsonl", "train"],
        ["data/train-00000-of-00002.parquet", "train"],
        ["default/validation/0000.parquet", "valid"],
        ["train/my_dev.csv", "valid"],
        ["gsm8k_test.json", "test"],
        ["constrained.jsonl", undefined],
        ["alpaca.json", undefined],
    ])) {
        assert.equal(setOfPath(path), set, path);
    }
    const names = ["a.JSONL", "b/c.parquet", "d.txt", "csv", "a/._b.csv", ".csv"];
    assert.deepEqual(names.filter(isData), ["a.JSONL", "b/c.parquet"]);
});

test("an exact name stands alone", () => {
    const alone = (/** @type {string[]} */ ...names) => standing(names.map(name => ({ name }))).map(({ name }) => name);
    assert.deepEqual(alone("train.jsonl", "train-old.jsonl"), ["train.jsonl"]);
    assert.deepEqual(alone("train-0.parquet", "train-1.parquet"), ["train-0.parquet", "train-1.parquet"]);
    assert.throws(() => alone("train.csv", "train.jsonl"), failing("invalid", /^train\.csv and train\.jsonl are the same/));
});

test("slices take what datasets takes", () => {
    for (const [text, count, range] of /** @type {[string, number, number[]][]} */ ([
        ["[:100]", 250, [0, 100]],
        ["[:100]", 50, [0, 50]],
        ["[10:20]", 250, [10, 20]],
        ["[-50:]", 250, [200, 250]],
        ["[:-1]", 3, [0, 2]],
        ["[:10%]", 250, [0, 25]],
        ["[:1%]", 250, [0, 2]],
        ["[33%:66%]", 10, [3, 7]],
        ["[-10%:]", 250, [225, 250]],
        ["[:]", 7, [0, 7]],
        ["[90:80]", 250, [90, 90]],
    ])) {
        const [before, slice] = splitSlice(`a${text}`);
        assert.equal(before, "a");
        assert.deepEqual(slice && rangeOf(slice, count), range, `${text} of ${count}`);
    }
    const needed = ["[:100]", "[10:20]", "[:-1]", "[-5:3]", "[5:]", "[:10%]"].map(text => mostNeeded(splitSlice(text)[1]));
    assert.deepEqual(needed, [100, 20, Infinity, Infinity, Infinity, Infinity]);
    assert.deepEqual(splitSlice("a/b:train"), ["a/b:train", undefined]);
    for (const [text, message] of /** @type {const} */ ([
        ["train[5]", /\[5\] is no slice/],
        ["train[a:b]", /\[a:b\] is no slice/],
        ["train[%:]", /\[%:\] is no slice/],
        ["train[:200%]", /a share is between/],
        ["train[:1%]+train[-1%:]", /not added up/],
    ])) {
        assert.throws(() => splitSlice(text), failing("invalid", message), text);
    }
});

/** @param {string} part @param {string} card @param {string[]} names */
function chosen(part, card, names) {
    const files = names.map(name => ({ name, bytes: undefined, sha256: undefined }));
    const spec = { repository: "a/b", revision: "main", file: part || undefined };
    return choose(spec, configsOf(card, parseYaml), files).map(({ set, file }) => [set, file.name]);
}

test("the card says what is where", () => {
    const files = ["main/test-0.parquet", "main/train-0.parquet", "main/x/train-1.parquet", "o/a.csv"];
    const main = [["train", files[1]], ["test", files[0]]];
    assert.deepEqual(chosen("main", TWO, files), main);
    assert.deepEqual(chosen("main/test_sft", TWO, files), main.slice(1));
    assert.deepEqual(chosen("other", TWO, files), [["train", files[3]]]);
    assert.deepEqual(chosen("main/*.parquet", TWO, files), [["test", files[0]], ["train", files[1]]]);
    assert.deepEqual(chosen("**/train-[0-9].parquet", TWO, files), [["train", files[1]], ["train", files[2]]]);
    assert.deepEqual(chosen("o/a.csv", TWO, files), [[undefined, files[3]]]);
    const several = /^hf:a\/b has several configurations, name one of them, as hf:a\/b:main; there are main, other$/;
    for (const [part, message] of /** @type {const} */ ([
        ["", several],
        ["test_sft", /as hf:a\/b:main\/test_sft; there are/],
        ["main/dev", /hf:a\/b:main\/dev: no split dev there; there are train, test_sft/],
        ["x/train", /hf:a\/b:x\/train: no configuration x there; there are main, other/],
        ["o/b.csv", /hf:a\/b:o\/b\.csv: no such file there; there are main\/test-0\.parquet, /],
        ["a[.csv", /no pattern of files/],
        ["*a*a*a*a*a*a*a*a*", /no pattern of files/],
    ])) {
        assert.throws(() => chosen(part, TWO, files), failing("invalid", message), part);
    }
    const byDefault = TWO.replace("- config_name: other", "- config_name: other\n  default: true");
    assert.deepEqual(chosen("", byDefault, files), [["train", files[3]]]);
});

test("without a card names say it", () => {
    const files = ["alpha/train.jsonl", "beta/dev.jsonl", "data/train_sft-0.parquet"];
    for (const card of ["", "# none", "---\nlicense: mit\n---\n", "---\nconfigs: [1, {}]\n---\n", "---\n[\n---"]) {
        const all = [["train", files[0]], ["valid", files[1]], ["train", files[2]]];
        assert.deepEqual(chosen("", card, files), all);
    }
    assert.deepEqual(chosen("beta", "", files), [["valid", files[1]]]);
    assert.deepEqual(chosen("train_sft", "", files), [["train", files[2]]]);
    assert.deepEqual(chosen("alpha/train", "", files), [["train", files[0]]]);
    // As the hub's own conversion to Parquet has them.
    const converted = ["main/train/0000.parquet", "main/test/0000.parquet", "other/train/0000.parquet"];
    assert.deepEqual(chosen("main", "", converted), [["train", converted[0]], ["test", converted[1]]]);
    assert.deepEqual(chosen("other/train", "", converted), [["train", converted[2]]]);
    assert.throws(() => chosen("train", "", converted), failing("invalid", /as hf:a\/b:main\/train; there are main, other/));
    assert.throws(() => chosen("gamma", "", files), failing("invalid", /^hf:a\/b:gamma: no file of gamma there; there are alpha/));
});

// ---- downloads

/** @param {string} source @param {import("../../../src/web/js/engram").DatasetOptions} [options] */
const fromServer = (source, options) => loadDataset(source, { hubEndpoint: `${server.origin}/`, ...options });
const texts = (/** @type {object[] | undefined} */ examples) => examples?.map(example => /** @type {{ text: string }} */ (example).text);

/** @param {string} source @param {import("../../../src/web/js/engram").DatasetOptions} [options] */
async function loaded(source, options) {
    const { train, valid, test } = await fromServer(source, options);
    return [texts(train), texts(valid), texts(test)];
}

test("a data set is loaded by its names, and then only asked whether it is the same", async () => {
    /** @type {object[]} */
    const progress = [];
    const all = [["a", "b", "c", "d"], undefined, ["t"]];
    assert.deepEqual(await loaded("hf:o/one", { onProgress: step => progress.push(step) }), all);
    const total = Object.values(sizes).reduce((sum, size) => sum + size, 0);
    assert.deepEqual(progress.at(-1), { loaded: total, total });
    server.requests.length = 0;
    assert.deepEqual(await loaded("o/one"), all);
    assert.deepEqual(server.requests, [listed]);
    server.faults.set(listed, { status: 500 });
    assert.deepEqual(await loaded("o/one"), all, "what the cache has");
    // What is named alone is what is trained on.
    assert.deepEqual(await loaded("hf:o/one:test"), [["t"], undefined, undefined]);
    assert.deepEqual(await loaded("hf:o/one:data/*-1.jsonl"), [["c", "d"], undefined, undefined]);
    assert.deepEqual(await loaded("hf:o/one[50%:]"), [["c", "d"], undefined, ["t"]]);
    assert.deepEqual(await loaded("hf:o/one:train[-1:]"), [["d"], undefined, undefined]);
});

test("of a slice at the beginning no more is downloaded than it needs", async () => {
    assert.deepEqual(await loaded("hf:o/one:train[1:2]"), [["b"], undefined, undefined]);
    assert.deepEqual(server.requests, [listed, `${at}/data/train-0.jsonl`]);
    // A set that the slice takes nothing of is left out.
    assert.deepEqual(await loaded("hf:o/one[1:3]"), [["b", "c"], undefined, undefined]);
    await assert.rejects(fromServer("hf:o/one:train[5:9]"), failing("data", /^hf:o\/one:train\[5:9\]: no record of its 4 of train is in the slice \[5:9\]$/));
});

test("a card and the hub's conversion to Parquet are understood", async () => {
    const { train, ...others } = await fromServer("hf:o/two:main");
    assert.equal(train?.length, 200);
    assert.deepEqual(others, {});
    assert.equal((await fromServer("hf:o/conv@refs/convert/parquet")).train?.length, 200);
    const slice = await fromServer("hf:o/conv@refs/convert/parquet[50:150]");
    assert.deepEqual(slice.train, train?.slice(50, 150));
    await assert.rejects(fromServer("hf:o/two"), failing("invalid", /name one of them, as hf:o\/two:main; there are main, other/));
});

test("a file at a URL is trained on", async () => {
    assert.deepEqual(await loaded(`${server.url}lines.jsonl#part`), [["x", "y"], undefined, undefined]);
    assert.equal((await cache.list()).length, 1);
    await assert.rejects(fromServer(`${server.url}page.csv.html`), failing("data", /no file whose name ends in .* hf:ORG\/NAME$/));
    await assert.rejects(fromServer(`${server.url}bad.parquet`), failing("format", /^bad\.parquet: no Parquet file/));
    assert.equal((await cache.list()).length, 1, "what can't be read is not kept");
});

test("what can't be loaded says why", async () => {
    for (const [source, code, message] of /** @type {const} */ ([
        [/** @type {never} */ (7), "invalid", /named by a text/],
        ["", "invalid", /neither a data set of the hub/],
        ["hf:", "invalid", /neither/],
        ["hf:o/one:", "invalid", /neither/],
        ["hf:o/../one", "invalid", /neither/],
        ["hf:o/one:train[5]", "invalid", /is no slice/],
        ["hf:o/none", "network", /^hf:o\/none: no such file, repository or revision/],
        ["hf:o/one:more", "invalid", /no file of more there; there are data\/test\.jsonl, data\/train-0\.jsonl/],
        ["hf:o/empty", "data", /no \.jsonl.* there; most data sets have them at hf:o\/empty@refs\/convert\/parquet/],
        ["hf:o/odd", "format", /no list of files/],
        ["hf:o/large", "data", /train\.parquet has 300000000 bytes, .*; name a part/],
    ])) {
        await assert.rejects(fromServer(source), failing(code, message), source);
    }
    server.faults.set(`${at}/data/train-1.jsonl`, { status: 500 });
    await assert.rejects(fromServer("hf:o/one"), failing("network", /^hf:o\/one: data\/train-1\.jsonl: .*try again/));
});

test("a load can be ended", async () => {
    server.faults.set("/datasets/o/two/resolve/abc/main/train-0.parquet", { delay: 500 });
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 100);
    await assert.rejects(fromServer("hf:o/two:main", { signal: controller.signal }), failing("aborted", /./));
    await assert.rejects(fromServer("hf:o/two:main", { signal: AbortSignal.abort() }), failing("aborted", /./));
});
