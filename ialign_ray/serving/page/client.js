// The API of this origin. Errors are Refusals, whose message is a sentence for people.

const KEY = "ialign-api-key";
const MOST = 400; // characters of an answer that is not our error, such as a proxy's

export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** All models that the key may use. */
export async function models() {
  return (await (await send("v1/models")).json()).data;
}

/** One answer: {version, data}. */
export async function ask(path, body, signal) {
  const response = await send(path, body, signal);
  const version = response.headers.get("x-model-version");
  try {
    return { version, data: await response.json() };
  } catch (error) {
    throw brokenOff(error);
  }
}

/** One answer while it is generated: {version, events}, events an async iterator of objects. */
export async function stream(path, body, signal) {
  const response = await send(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  return { version: response.headers.get("x-model-version"), events: events(response) };
}

async function send(path, body, signal) {
  const secret = key();
  if (!/^[\x21-\x7e]*$/.test(secret)) throw new Refusal("the API key contains invalid characters; copy it again", 401);
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the server does not respond; check that it is running, then send again");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const text = await response.text().catch(() => "");
  const wait = response.headers.get("retry-after");
  const again = wait ? `; try again in ${wait} s` : "";
  let message;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = text.slice(0, MOST).trim() || `the server responded with status ${response.status}`;
  }
  return new Refusal(message + again, response.status);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw brokenOff(error);
      });
      if (done) throw brokenOff();
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: ?/, "");
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Refusal(event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

function brokenOff(error) {
  return error?.name === "AbortError" ? error : new Refusal("the connection was lost before the answer was complete; send again");
}
