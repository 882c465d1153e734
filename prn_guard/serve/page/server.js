// Requests to the server that this page came from. The token lives in this module's memory alone.

let token = "";
let onDenied = () => {};

/** A request that was not answered as hoped; `message` is for people, `status` 0 without an answer. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Send `value` with every request from now on. */
export function useToken(value) {
  token = value;
}

/** Call `listener(tokenWasSent)` whenever the server asks for a token. */
export function whenDenied(listener) {
  onDenied = listener;
}

/**
 * The JSON that the server answers with.
 *
 * @param {string} path relative to the page, so that a proxy may put both under a path of its own.
 * @param {RequestInit} options as for `fetch`.
 * @param {number} seconds that it may take.
 * @throws {Refusal} it did not answer, or not with what was asked; an AbortError as it comes.
 */
export async function ask(path, options = {}, seconds = 30) {
  const limit = AbortSignal.timeout(seconds * 1000);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  let response;
  try {
    const headers = new Headers(options.headers);
    if (token) headers.set("Authorization", `Bearer ${token}`);
    response = await fetch(new URL(path, document.baseURI), {
      ...options, headers, signal, cache: "no-store", redirect: "error",
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    if (limit.aborted) throw new Refusal(`The server did not answer within ${seconds} seconds.`, 0);
    throw new Refusal("The server cannot be reached. Is it still running?", 0);
  }
  let content = null;
  try {
    content = await response.json();
  } catch (error) {
    if (options.signal?.aborted) throw error;
  }
  if (!response.ok) throw refusalOf(response, content);
  if (content === null) throw new Refusal("The server's answer cannot be read.", response.status);
  return content;
}

function refusalOf(response, content) {
  const status = response.status;
  if (status === 401) {
    onDenied(token !== "");
    return new Refusal("The server asks for a token.", status);
  }
  const said = typeof content?.error === "string" ? content.error : "";
  const wait = response.headers.get("Retry-After");
  const again = wait ? ` Try again in ${wait} s.` : "";
  return new Refusal((said || `The server refused it (HTTP ${status}).`) + again, status);
}
