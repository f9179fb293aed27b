// @ts-nocheck The packages are beside it in the built package alone; vendor.d.ts has their types.
/** What is used of other people's packages, which `scripts/vendor` puts beside these modules. */

export { decompress as unzstd } from "./vendor/fzstd/index.js";
export { parquetMetadataAsync, parquetReadObjects, snappyUncompress } from "./vendor/hyparquet/index.js";
export { decompressBrotli } from "./vendor/hyparquet-compressors/brotli.js";
export { gunzip } from "./vendor/hyparquet-compressors/gzip.js";
export { decompressLz4, decompressLz4Raw } from "./vendor/hyparquet-compressors/lz4.js";
export { load as parseYaml } from "./vendor/js-yaml/index.js";
