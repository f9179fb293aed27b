// @ts-check
/** What is remembered of the kernels' variants, and that a store that fails is no fault. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { load } from "./assemble.mjs";

/** @type {typeof import("../../../src/web/js/variants.js")} */
const { tuning } = await load("variants.js");
/** @type {typeof import("../../../src/web/js/store.js")} */
const { store } = await load("store.js");

/** @type {import("../../../src/web/js/engram").DeviceInfo["variants"]} */
const VARIANTS = { matmul: "tile", matmulTransposed: "loads", matvec: "tile" };

test("variants are remembered by key, and what is damaged is nothing", async () => {
    const { recall, remember } = tuning(() => {});
    assert.equal(await recall("a"), undefined);
    await remember("a", VARIANTS);
    await remember("b", { ...VARIANTS, matvec: "loads" });
    assert.deepEqual(await recall("a"), VARIANTS);
    assert.equal(await recall("c"), undefined);
    const files = await store();
    for (const damaged of ["{", "null", "7", ""]) {
        await files.write("variants", new Blob([damaged]).stream());
        assert.equal(await recall("a"), undefined);
    }
    await remember("a", VARIANTS);
    assert.deepEqual(await recall("a"), VARIANTS);
});

test("a store that fails means that they are found again", async () => {
    const { recall, remember } = tuning(() => {});
    const files = await store();
    const { read, write } = files;
    const fail = async () => {
        throw new Error("no room");
    };
    Object.assign(files, { read: fail, write: fail });
    await remember("d", VARIANTS);
    assert.equal(await recall("d"), undefined);
    Object.assign(files, { read, write });
    assert.equal(await recall("d"), undefined);
});
