// @ts-check
/**
 * The settings that were given: one that is `undefined` was not.
 *
 * @template {object} T
 * @param {T} settings
 * @returns {T}
 */
export function given(settings) {
    const entries = Object.entries(settings).filter(([, value]) => value !== undefined);
    return /** @type {T} */ (Object.fromEntries(entries));
}
