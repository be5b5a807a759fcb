/* Who uses the page, as the service knows them, and what they may do. It must not know about the page's elements. */

import { get } from "./api.js";

let scopes = new Set();

/** Ask the service. */
export async function refreshIdentity() {
  ({ scopes } = await get("/api").then((index) => ({ scopes: new Set(index.scopes) })));
}

/** Whether this scope, `read`, `run` or `admin`, was granted. */
export const may = (scope) => scopes.has(scope);
