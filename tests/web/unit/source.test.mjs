// @ts-check
/** Sources, the hub and the cache, over a real server. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";

import { serve } from "../server.mjs";
import { failing, load } from "./assemble.mjs";

/** @type {typeof import("../../../src/web/js/source.js")} */
const { portable, resolve } = await load("source.js");
/** @type {typeof import("../../../src/web/js/hub.js")} */
const { parseHub, pick } = await load("hub.js");
/** @type {typeof import("../../../src/web/js/cache.js")} */
const { cache } = await load("cache.js");

const root = await mkdtemp(join(tmpdir(), "engram-served-"));
const gguf = Buffer.concat([Buffer.from("GGUF"), Buffer.alloc(300_000, 7)]);
const sum = createHash("sha256").update(gguf).digest("hex");
await writeFile(join(root, "m.gguf"), gguf);
await writeFile(join(root, "page.gguf"), "<!doctype html>");
await writeFile(join(root, "tokenizer.json"), "{}");
const index = JSON.stringify({ weight_map: { a: "2.safetensors", b: "1.safetensors", c: "2.safetensors" } });
await writeFile(join(root, "index.json"), index);

const file = (/** @type {string} */ rfilename, size = 2, sha256 = undefined) => {
    return { rfilename, size, lfs: sha256 && { sha256 } };
};
const listing = (/** @type {object[]} */ siblings) => JSON.stringify({ sha: "abc123", siblings });
const api = (/** @type {string} */ id, revision = "main") =>
    `/api/models/${id}/revision/${revision}?blobs=true`;
const server = await serve({
    root,
    texts: {
        [api("o/one")]: listing([file("README.md"), file("m.gguf", gguf.length, /** @type {never} */ (sum))]),
        [api("o/bad")]: listing([file("m.gguf", gguf.length, /** @type {never} */ ("0".repeat(64)))]),
        [api("o/two", "v1")]: listing([file("a.gguf"), file("m.gguf", gguf.length)]),
        [api("o/folder")]: listing([
            file("config.json"),
            file("tokenizer.json"),
            file("model.safetensors.index.json", index.length),
            file("1.safetensors"),
            file("2.safetensors"),
            file("../../evil"),
        ]),
        "/o/folder/resolve/abc123/config.json": "{}",
        "/o/folder/resolve/abc123/tokenizer.json": "{}",
        "/o/folder/resolve/abc123/model.safetensors.index.json": index,
        "/o/folder/resolve/abc123/1.safetensors": "s1",
        "/o/folder/resolve/abc123/2.safetensors": "s2",
    },
    files: {
        "/o/one/resolve/abc123/m.gguf": join(root, "m.gguf"),
        "/o/bad/resolve/abc123/m.gguf": join(root, "m.gguf"),
        "/o/two/resolve/abc123/m.gguf": join(root, "m.gguf"),
    },
});
after(async () => {
    await server.close();
    await rm(root, { recursive: true });
});
beforeEach(async () => {
    await cache.clear();
    server.faults.clear();
    server.requests.length = 0;
});

/**
 * @param {import("../../../src/web/js/engram").Source} source
 * @param {import("../../../src/web/js/engram").LoadOptions} [options]
 * @param {AbortSignal} [signal]
 */
async function fetched(source, options = {}, signal) {
    /** @type {[number, number][]} */
    const progress = [];
    const onProgress = (/** @type {number} */ loaded, /** @type {number} */ total) => {
        progress.push([loaded, total]);
    };
    const all = { hubEndpoint: server.origin, ...options };
    const { files, name } = await resolve(source, all, { signal, onProgress });
    return { name, files, progress, names: files.map(file => file.name) };
}

test("a URL is downloaded once, and then needs no network", async () => {
    const url = `${server.url}m.gguf`;
    const first = await fetched(new URL(`${url}#part`), { sha256: sum.toUpperCase() });
    assert.equal(first.name, "m.gguf");
    assert.deepEqual(Buffer.from((await first.files[0]?.blob.arrayBuffer()) ?? []), gguf);
    assert.deepEqual(first.progress.at(-1), [gguf.length, gguf.length]);
    assert(first.progress.length > 1);
    server.requests.length = 0;
    const second = await fetched(url);
    assert.equal(second.files[0]?.blob.size, gguf.length);
    assert.deepEqual(server.requests, []);
    assert.deepEqual(second.progress, []);
    const [kept, ...others] = await cache.list();
    assert.deepEqual(others, []);
    const { savedAt, ...rest } = /** @type {import("../../../src/web/js/engram").CachedFile} */ (kept);
    assert.deepEqual(rest, { url, bytes: gguf.length, etag: `"${gguf.length.toString(16)}"`, sha256: sum });
    assert(Date.now() - savedAt < 10_000);
    await fetched(url, { cache: "refresh" });
    await fetched(url, { cache: "none" });
    assert.equal(server.requests.length, 2);
    await cache.clear(url);
    assert.deepEqual(await cache.list(), []);
});

test("another sum than the promised one is never kept", async () => {
    const url = `${server.url}m.gguf`;
    const sha256 = "1".repeat(64);
    await assert.rejects(fetched(url, { sha256 }), failing("integrity", /SHA-256/));
    await fetched(url);
    // What is in the cache does not pass for it either.
    await assert.rejects(fetched(url, { sha256 }), failing("integrity", /SHA-256/));
    assert.equal((await cache.list()).length, 1);
    server.faults.set("/m.gguf", { corruptAt: 200_000 });
    await assert.rejects(fetched(url, { cache: "refresh", sha256: sum }), failing("integrity"));
    server.faults.clear();
    server.requests.length = 0;
    await fetched(url);
    assert.deepEqual(server.requests, [], "the whole one of before is still there");
});

test("what breaks off or is refused says so, and leaves nothing", async () => {
    const url = `${server.url}m.gguf`;
    server.faults.set("/m.gguf", { truncateAt: 100_000 });
    await assert.rejects(fetched(url), failing("network", /check the network/));
    for (const [status, message] of /** @type {const} */ ([[404, /no such/], [403, /gated/], [500, /later/]])) {
        server.faults.set("/m.gguf", { status });
        await assert.rejects(fetched(url), failing("network", message));
    }
    await assert.rejects(fetched("http://127.0.0.1:9/m.gguf"), failing("network"));
    await assert.rejects(fetched(`${server.url}page.gguf`), failing("format", /not a GGUF/));
    assert.deepEqual(await cache.list(), []);
});

test("an aborted download leaves nothing", async () => {
    server.faults.set("/m.gguf", { delay: 20 });
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 50);
    const url = `${server.url}m.gguf`;
    await assert.rejects(fetched(url, {}, controller.signal), failing("aborted"));
    assert.deepEqual(await cache.list(), []);
});

test("files, streams and bytes are taken as they are", async () => {
    const bytes = new Uint8Array([1, 2]);
    for (const source of [bytes, bytes.buffer, new Blob([bytes]), new Blob([bytes]).stream()]) {
        const { files, name } = await fetched(source);
        assert.deepEqual([name, files.length, files[0]?.blob.size], ["model.gguf", 1, 2]);
    }
    const one = new File([bytes], "a.gguf");
    assert.equal((await fetched(one)).name, "a.gguf");
    const folder = [new File([], "config.json"), one];
    assert.deepEqual((await fetched(folder)).names, ["config.json", "a.gguf"]);
    await assert.rejects(fetched([]), failing("invalid"));
    await assert.rejects(fetched(/** @type {never} */ (7)), failing("invalid", /a model comes from/));
    assert(await portable(bytes) instanceof Blob);
    assert.equal(await portable(new URL("http://x/y")), "http://x/y");
    assert.equal(await portable("o/one"), "o/one");
    assert.equal(await portable(folder), folder);
});

test("the hub's ids are those of the native runner", () => {
    const spec = (/** @type {string} */ repository, revision = "main", file = undefined) => {
        return { repository, revision, file };
    };
    assert.deepEqual(parseHub("hf:a/b"), spec("a/b"));
    assert.deepEqual(parseHub("a/b"), spec("a/b"));
    assert.deepEqual(parseHub("hf:gpt2"), spec("gpt2"));
    assert.deepEqual(parseHub("hf:a/b@refs/pr/1"), spec("a/b", "refs/pr/1"));
    assert.deepEqual(parseHub("hf:a/b@v1.0:q/m.gguf"), spec("a/b", "v1.0", /** @type {never} */ ("q/m.gguf")));
    const wrong = ["", "hf:", "hf:a/b/c", "hf:/b", "hf:a/..", "hf:a/b@", "hf:a/b:", "hf:a/b:../x.gguf"];
    for (const text of [...wrong, "hf:a b", "gpt2", "model.gguf", "data/model.gguf", "hf:a/b:m.bin"]) {
        assert.throws(() => parseHub(text), failing("invalid"), text);
    }
});

test("a repository's one GGUF is found, checked and kept with the listing", async () => {
    const { names, name, progress } = await fetched("hf:o/one");
    assert.deepEqual(names, ["m.gguf"]);
    assert.equal(name, "hf:o/one");
    assert.deepEqual(progress.at(-1), [gguf.length, gguf.length]);
    server.requests.length = 0;
    await fetched("o/one");
    assert.deepEqual(server.requests, []);
    await assert.rejects(fetched("o/bad"), failing("integrity", /hf:o\/bad: m\.gguf/));
    await assert.rejects(fetched("o/none"), failing("network", /hf:o\/none: no such/));
});

test("of several GGUFs one has to be named", async () => {
    await assert.rejects(fetched("o/two@v1"), failing("invalid", /2 \.gguf.*as hf:o\/two@v1:a\.gguf/));
    assert.deepEqual((await fetched("o/two@v1:m.gguf")).names, ["m.gguf"]);
    await assert.rejects(fetched("o/two@v1:x.gguf"), failing("format", /no such file/));
});

test("a folder comes with its shards", async () => {
    const { names, progress, files } = await fetched("o/folder");
    assert.deepEqual(names, [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "1.safetensors",
        "2.safetensors",
    ]);
    assert.equal(await files[4]?.blob.text(), "s2");
    const total = 8 + index.length;
    assert.deepEqual(progress.at(-1), [total, total]);
    await assert.rejects(fetched("o/folder", { sha256: sum }), failing("invalid", /single file/));
});

test("a folder without its tokenizer is refused before anything is downloaded", () => {
    const files = ["config.json", "model.safetensors"].map(name => {
        return { name, bytes: 1, sha256: undefined };
    });
    const spec = { repository: "a/b", revision: "main", file: undefined };
    assert.throws(() => pick(files, spec), failing("format", /tokenizer\.json is missing/));
    assert.throws(() => pick([], spec), failing("format", /neither/));
});
