// @ts-check
/** What this browser can do. */

/** @import { Support } from "./engram" */

import { withModule } from "./data.js";

/** @returns {Promise<Support>} */
export async function checkSupport() {
    return withModule(module => module.checkSupport());
}
