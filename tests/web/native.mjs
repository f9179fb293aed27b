// @ts-check
/** The native command, for what it and the page must have in common. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { ROOT } from "./harness.mjs";

const run = promisify(execFile);

/**
 * Runs `engram` (`$ENGRAM_BIN`, or the one that cargo builds) on the page's engine and gives its
 * standard output.
 *
 * @param {...string} args
 */
export async function engram(...args) {
    const [program, before] = process.env.ENGRAM_BIN
        ? [process.env.ENGRAM_BIN, []]
        : ["cargo", ["run", "--locked", "--quiet", "-p", "engram-native", "--"]];
    const options = { cwd: ROOT, maxBuffer: 1 << 26 };
    return (await run(program, [...before, "--engine", "wgpu", ...args], options)).stdout;
}
