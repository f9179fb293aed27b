// @ts-check
/** Several files as one: a ZIP archive without compression, since weights hardly shrink. */

/** @import { NamedFile } from "../src/web/js/engram" */

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
});

/** @param {Uint8Array} bytes */
function crc32(bytes) {
    let crc = 0xffffffff;
    for (const byte of bytes) crc = /** @type {number} */ (CRC[(crc ^ byte) & 255]) ^ (crc >>> 8);
    return (crc ^ 0xffffffff) >>> 0;
}

/**
 * A record of little-endian numbers, each given as its value and its bytes.
 * @param {...[number, 2 | 4]} fields
 */
function record(...fields) {
    const view = new DataView(new ArrayBuffer(fields.reduce((sum, [, size]) => sum + size, 0)));
    let at = 0;
    for (const [value, size] of fields) {
        if (size === 2) view.setUint16(at, value, true);
        else view.setUint32(at, value, true);
        at += size;
    }
    return new Uint8Array(view.buffer);
}

/**
 * @param {readonly NamedFile[]} files
 * @returns {Blob}
 */
export function zip(files) {
    /** @type {Uint8Array<ArrayBuffer>[]} */
    const parts = [];
    /** @type {Uint8Array<ArrayBuffer>[]} */
    const directory = [];
    const dosDate = 0x21; // 1 January 1980: the same files make the same archive.
    let offset = 0;
    for (const { name, bytes } of files) {
        const content = new Uint8Array(bytes);
        const label = new TextEncoder().encode(name);
        /** @type {[number, 2 | 4][]} */
        const common = [
            [20, 2], [0x0800, 2], [0, 2], [0, 2], [dosDate, 2],
            [crc32(content), 4], [content.length, 4], [content.length, 4], [label.length, 2], [0, 2],
        ];
        const header = record([0x04034b50, 4], ...common);
        parts.push(header, label, content);
        directory.push(
            record([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]),
            label,
        );
        offset += header.length + label.length + content.length;
    }
    const size = directory.reduce((sum, part) => sum + part.length, 0);
    const end = record(
        [0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2], [size, 4], [offset, 4], [0, 2],
    );
    return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
