// @ts-check
/**
 * A static server, good enough to try a page with, and able to be as bad as the network.
 *
 * `node tests/web/server.mjs [--root FOLDER] [--port N] [--base /PATH/] [--isolated]`
 */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** @type {Record<string, string>} */
const TYPES = {
    ".css": "text/css; charset=utf-8",
    ".gguf": "application/octet-stream",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".jsonl": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
    ".ttf": "font/ttf",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".yaml": "text/plain; charset=utf-8",
};

/**
 * How a response goes wrong.
 *
 * @typedef {object} Fault
 * @property {number} [status] Answer with this and no file.
 * @property {number} [delay] Milliseconds before each piece of 64 KiB.
 * @property {number} [truncateAt] Break the connection off after so many bytes.
 * @property {number} [shortenTo] End the file there, and say that this is its length.
 * @property {number} [corruptAt] Change the byte there.
 */

/**
 * @typedef {object} Options
 * @property {string} root The folder served.
 * @property {string} [base] The path it is served under; default `/`.
 * @property {boolean} [isolated] Whether to send what makes pages cross-origin isolated.
 * @property {Record<string, string>} [files] Further files, by path on the server.
 * @property {Record<string, string>} [texts] Further texts, by path (with query) on the server.
 * @property {Record<string, string>} [headers] Sent with every answer.
 * @property {number} [port] Default: any that is free.
 * @property {string} [host]
 */

/**
 * Starts serving.
 *
 * @param {Options} options
 */
export async function serve(options) {
    const { base = "/", isolated = false, headers = {}, port = 0, host = "127.0.0.1" } = options;
    /** Faults by path: of the next requests, until they are deleted. @type {Map<string, Fault>} */
    const faults = new Map();
    /** Paths asked for. @type {string[]} */
    const requests = [];
    const server = createServer(async (request, response) => {
        const url = new URL(request.url ?? "/", "http://server");
        requests.push(url.pathname);
        for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
        // Otherwise a browser shows yesterday's page.
        response.setHeader("cache-control", "no-cache");
        if (isolated) {
            response.setHeader("cross-origin-opener-policy", "same-origin");
            response.setHeader("cross-origin-embedder-policy", "require-corp");
        }
        const fault = faults.get(url.pathname) ?? {};
        const text = options.texts?.[url.pathname + url.search];
        try {
            if (fault.status) return void refuse(response, fault.status);
            if (request.method !== "GET" && request.method !== "HEAD") return void refuse(response, 405);
            if (text !== undefined) {
                response.setHeader("content-type", TYPES[extname(url.pathname)] ?? "text/html");
                return void response.end(text);
            }
            const path = options.files?.[url.pathname] ?? inRoot(options.root, base, url.pathname);
            const file = path === undefined ? undefined : await find(path);
            if (!file) return void refuse(response, 404);
            if (file.isFolder && !url.pathname.endsWith("/")) {
                // Relative links need the slash.
                return void response.writeHead(301, { location: `${url.pathname}/` }).end();
            }
            await send(response, file, fault, request.method === "HEAD");
        } catch {
            // The browser went away, or the fault broke the connection off.
            response.destroy();
        }
    });
    await new Promise((resolve, reject) => {
        server.once("error", reject);
        server.listen(port, host, () => resolve(undefined));
    });
    const address = /** @type {import("node:net").AddressInfo} */ (server.address());
    return {
        origin: `http://${host}:${address.port}`,
        url: `http://${host}:${address.port}${base}`,
        faults,
        requests,
        close() {
            server.closeAllConnections();
            return new Promise(resolve => server.close(resolve));
        },
    };
}

/** @param {import("node:http").ServerResponse} response @param {number} status */
function refuse(response, status) {
    response.writeHead(status, { "content-type": "text/plain" }).end(`${status}\n`);
}

/** @param {string} root @param {string} base @param {string} path @returns {string | undefined} */
function inRoot(root, base, path) {
    if (!path.startsWith(base)) return undefined;
    let name;
    try {
        name = decodeURIComponent(path.slice(base.length));
    } catch {
        return undefined;
    }
    const whole = normalize(join(root, name));
    const isInside = whole === normalize(root) || whole.startsWith(join(root, sep));
    return isInside && !name.includes("\0") ? whole : undefined;
}

/** @param {string} path */
async function find(path) {
    const stats = await stat(path).catch(() => undefined);
    if (stats?.isFile()) return { path, size: stats.size, isFolder: false };
    if (!stats?.isDirectory()) return undefined;
    const index = join(path, "index.html");
    const { size } = await stat(index).catch(() => ({ size: -1 }));
    return size < 0 ? undefined : { path: index, size, isFolder: true };
}

/**
 * @param {import("node:http").ServerResponse} response
 * @param {{ path: string, size: number }} file
 * @param {Fault} fault
 * @param {boolean} isHead
 */
async function send(response, { path, size }, fault, isHead) {
    const length = Math.min(size, fault.shortenTo ?? size);
    response.writeHead(200, {
        "content-type": TYPES[extname(path)] ?? "application/octet-stream",
        "content-length": length,
        etag: `"${size.toString(16)}"`,
    });
    if (isHead || length === 0) return void response.end();
    const stream = createReadStream(path, { end: length - 1 });
    await pipeline(stream, damage(fault, response), response);
}

/** @param {Fault} fault @param {import("node:http").ServerResponse} response */
function damage({ delay, truncateAt = Infinity, corruptAt = -1 }, response) {
    let sent = 0;
    return new Transform({
        async transform(chunk, _, done) {
            if (delay) await sleep(delay);
            const at = corruptAt - sent;
            if (at >= 0 && at < chunk.length) chunk[at] ^= 1;
            if (sent + chunk.length > truncateAt) {
                // What came before shall arrive, then nothing more.
                response.write(chunk.subarray(0, truncateAt - sent), () => response.destroy());
                return;
            }
            sent += chunk.length;
            done(null, chunk);
        },
    });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
    const { values } = parseArgs({
        options: {
            root: { type: "string", default: "www" },
            port: { type: "string", default: "8000" },
            base: { type: "string", default: "/" },
            isolated: { type: "boolean", default: false },
        },
    });
    const { url } = await serve({ ...values, port: Number(values.port) });
    process.stdout.write(`${url}\n`);
}
