/** What `vendor.js` gives, for checking only. */

export { decompress as unzstd } from "fzstd";
export { parquetMetadataAsync, parquetReadObjects, snappyUncompress } from "hyparquet";
export { load as parseYaml } from "js-yaml";
export function decompressBrotli(input: Uint8Array, length: number): Uint8Array;
export function gunzip(input: Uint8Array, output: Uint8Array): Uint8Array;
export function decompressLz4(input: Uint8Array, length: number): Uint8Array;
export function decompressLz4Raw(input: Uint8Array, length: number): Uint8Array;
