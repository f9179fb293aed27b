// @ts-check
/** Rows of Parquet files as JSON lines. The native runner writes the same (`dataset/parquet.rs`). */

/** @import { Compressors } from "hyparquet" */
/** @import { Vendor } from "./packages.js" */

import { EngramError, toError } from "./errors.js";
import { vendor } from "./packages.js";

/** Most bytes of a data file, unpacked if it is packed: a text that a page can hold. */
export const MOST_BYTES = 2 ** 28;
/** Most rows, which may take no bytes at all. */
const MOST_ROWS = 2 ** 24;

/** @param {number} bytes */
function checkSize(bytes) {
    if (!(bytes >= 0 && bytes <= MOST_BYTES)) {
        throw new Error(`${bytes} bytes when unpacked are more than the ${MOST_BYTES} that a page takes; divide it`);
    }
}

/**
 * The rows of a file, each a JSON object in a line of its own.
 *
 * @param {string} name What errors call it.
 * @param {Blob} blob
 * @param {number} most How many rows suffice; there may be more.
 * @returns {Promise<string>}
 */
export async function parquetLines(name, blob, most) {
    const packages = await vendor();
    try {
        return await read(packages, blob, most);
    } catch (error) {
        const { message } = toError(error);
        const [line = ""] = message.replace(/^parquet /, "").split("\n");
        throw new EngramError("format", `${name}: no Parquet file that can be read: ${line}`, { cause: error });
    }
}

/** @param {Vendor} packages @param {Blob} blob @param {number} most */
async function read({ parquetMetadataAsync, parquetReadObjects, ...codecs }, blob, most) {
    if (blob.size < 12) throw new Error("it is too short");
    const file = {
        byteLength: blob.size,
        slice(/** @type {number} */ start, end = blob.size) {
            if (!(start >= 0 && start <= end && end <= blob.size)) throw new Error("it names bytes that it has not");
            return blob.slice(start, end).arrayBuffer();
        },
    };
    const metadata = await parquetMetadataAsync(file, { geoparquet: false });
    /** @type {typeof metadata.row_groups} */
    const groups = [];
    let rows = 0;
    for (const group of metadata.row_groups) {
        if (rows >= most) break;
        groups.push(group);
        rows += Math.max(Number(group.num_rows), 0);
    }
    if (!(rows <= MOST_ROWS)) throw new Error(`${rows} rows are more than the ${MOST_ROWS} that a page takes; divide it`);
    const columns = groups.flatMap(group => group.columns);
    checkSize(columns.reduce((sum, { meta_data: column }) => sum + Number(column?.total_uncompressed_size ?? 0), 0));

    const compressors = compressorsOf(codecs);
    let lines = "";
    let rowStart = 0;
    // Group by group: their rows as objects take several times the memory of the text.
    for (const { num_rows: count } of groups) {
        const rowEnd = rowStart + Number(count);
        const options = { file, metadata, rowStart, rowEnd, compressors, utf8: false };
        for (const row of await parquetReadObjects(options)) lines += `${JSON.stringify(plain(row))}\n`;
        rowStart = rowEnd;
    }
    return lines;
}

/**
 * What unpacks a page, into as much memory as it says and we have.
 *
 * @param {Omit<Vendor, "parquetMetadataAsync" | "parquetReadObjects">} codecs
 * @returns {Compressors}
 */
function compressorsOf({ snappyUncompress, gunzip, unzstd, decompressBrotli, decompressLz4, decompressLz4Raw }) {
    /** @type {(unpack: (input: Uint8Array, length: number) => Uint8Array) => typeof unpack} */
    const checked = unpack => (input, length) => {
        checkSize(length);
        return unpack(input, length);
    };
    /** @type {(unpack: (input: Uint8Array, output: Uint8Array) => unknown) => ReturnType<typeof checked>} */
    const into = unpack =>
        checked((input, length) => {
            const output = new Uint8Array(length);
            unpack(input, output);
            return output;
        });
    return {
        SNAPPY: into(snappyUncompress),
        GZIP: into(gunzip),
        ZSTD: into(unzstd),
        BROTLI: checked(decompressBrotli),
        LZ4: checked(decompressLz4),
        LZ4_RAW: checked(decompressLz4Raw),
    };
}

/**
 * A value as JSON has it, without empty cells: a column has one for what only other rows have.
 *
 * @param {unknown} value
 * @returns {unknown}
 */
function plain(value) {
    // What JSON's numbers can't hold stays whole as digits: such columns are marks, not amounts.
    if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    if (value instanceof Uint8Array) return text(value);
    if (typeof value !== "object" || value === null || value instanceof Date) return value ?? null;
    if (Array.isArray(value)) return value.map(plain);
    if (ArrayBuffer.isView(value)) return Array.from(/** @type {Iterable<unknown>} */ (/** @type {unknown} */ (value)), plain);
    const cells = Object.entries(value).map(([name, cell]) => [name, plain(cell)]);
    return Object.fromEntries(cells.filter(([, cell]) => cell !== null));
}

/** Texts of writers that don't say so; not images. @param {Uint8Array} bytes */
function text(bytes) {
    try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
        return null;
    }
}
