// @ts-check
/** Other people's packages, loaded when something first needs them. */

import { EngramError, toError } from "./errors.js";

/** @typedef {typeof import("./vendor.js")} Vendor */

/** @returns {Promise<Vendor>} */
export async function vendor() {
    try {
        return await import("./vendor.js");
    } catch (error) {
        const { message } = toError(error);
        const advice = "check the network, and that the package's vendor folder is served";
        throw new EngramError("network", `what reads such data can't be loaded (${message}); ${advice}`, {
            cause: error,
        });
    }
}
