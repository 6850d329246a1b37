// The chat page: the list of conversations, the open one, and answers as they are written.
// What people and the assistant say is only ever set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const [list, scroller, log, box] = ["list", "scroller", "log", "box"].map($);
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

let threads = []; // what the list shows, newest activity first
let after = null; // where its next page begins
let current = ""; // the open conversation, "" for one that has yet to begin
let oldest = ""; // the first message shown: where "Show earlier" goes on
let view = new AbortController(); // aborted when something else is to be shown
let busy = false; // an answer to a message sent here is awaited
let following = false; // an answer to an earlier message is awaited
let refused = null; // { text, key }: sent again unchanged, it is still the same message

// --- The API -------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(message, { code = "", retryable = false } = {}) {
    super(message);
    Object.assign(this, { code, retryable });
  }
}

/** The response of the API below /chatkit/threads; raises Refusal for everything but success. */
async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const csrf = document.cookie.match(/(?:^|;\s*)csrftoken=([^;]*)/)?.[1] ?? "";
  const type = body && { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(`/chatkit/threads${path}`, {
      method, signal, body: body && JSON.stringify(body), headers: { "X-CSRFToken": csrf, ...type, ...headers },
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal("The server cannot be reached.", { retryable: true });
  }
  if (response.status === 401) {
    location.assign(`${document.body.dataset.signIn}?next=${encodeURIComponent(`/${location.hash}`)}`);
    await new Promise(() => {}); // the page is being left
  }
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    const retryable = response.status >= 500;
    throw new Refusal(error?.message ?? `The server answered ${response.status}.`, error ?? { retryable });
  }
  return response;
}

const get = async (path, options) => (await call(path, options)).json();
const at = (id) => `/${encodeURIComponent(id)}`;
const newKey = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

/** The JSON frames of an event stream up to [DONE]; comments and event numbers are passed over. */
async function* frames(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const leave = () => reader.cancel().catch(() => {});
  signal.addEventListener("abort", leave);
  try {
    for (let rest = "", chunk; !(chunk = await reader.read()).done;) {
      const lines = (rest + chunk.value).split("\n");
      rest = lines.pop();
      for (const line of lines.filter((line) => line.startsWith("data:"))) {
        if (line.slice(5).trim() === "[DONE]") return;
        yield JSON.parse(line.slice(5));
      }
    }
  } finally {
    leave();
  }
}

// --- Showing -------------------------------------------------------------------------------

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function article({ role, content = "", created_at = new Date().toISOString(), incomplete = false }) {
  const made = $("message").content.firstElementChild.cloneNode(true);
  made.className = role;
  made.querySelector("span").textContent = role === "user" ? "You" : "Assistant";
  const time = made.querySelector("time");
  time.dateTime = created_at;
  time.textContent = clock.format(new Date(created_at));
  made.querySelector("p").append(content);
  if (incomplete) markCut(made);
  return made;
}

const markCut = (answer) => answer.append(element("p", { className: "cut" }, "This answer was cut short."));

/** Change the transcript: who reads its end stays at its end. `old` messages are not read aloud. */
function change(how, { toEnd = false, old = false } = {}) {
  const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
  if (old) log.ariaLive = "off";
  how();
  if (old) setTimeout(() => { log.ariaLive = "polite"; }, 500);
  if (atEnd || toEnd) scroller.scrollTop = scroller.scrollHeight;
}

function showStatus(text) {
  if ($("status").textContent !== text) change(() => { $("status").textContent = text; });
}

function showNotice(text) {
  change(() => log.append(element("p", { className: "notice", role: "alert" }, text)));
}

function showProblem(text, tryAgain) {
  const made = element("div", { className: "problem", role: "alert" }, element("p", {}, text));
  if (tryAgain) {
    const button = element("button", { type: "button" }, "Try again");
    button.addEventListener("click", () => { hideProblem(); box.focus(); tryAgain(); });
    made.append(button);
  }
  change(() => $("problem").replaceChildren(made), { toEnd: true });
}

const hideProblem = () => $("problem").replaceChildren();

function setBusy(value) {
  busy = value;
  $("send").ariaDisabled = String(value);
  showStatus(value ? "Sending…" : "");
}

function showHead(title = threads.find((thread) => thread.thread_id === current)?.title) {
  $("title").textContent = (current && title) || "New conversation";
  document.title = `${$("title").textContent} · Chatsite`;
  $("delete").hidden = !current;
  $("empty").hidden = Boolean(current) || log.hasChildNodes();
  for (const link of list.querySelectorAll("a")) {
    link.ariaCurrent = link.hash === `#${current}` ? "page" : null;
  }
}

// --- The list ------------------------------------------------------------------------------

/** Read the newest conversations, or the next page; what is already listed stays. */
async function readList({ next = false } = {}) {
  const page = await get(`?limit=30${next ? `&after=${encodeURIComponent(after)}` : ""}`);
  const fresh = new Set(page.data.map((thread) => thread.thread_id));
  const others = threads.filter((thread) => !fresh.has(thread.thread_id));
  if (next || !others.length) after = page.has_more ? page.after : null;
  showList(next ? [...others, ...page.data] : [...page.data, ...others]);
}

function showList(wanted) {
  threads = wanted;
  const focused = list.contains(document.activeElement) ? document.activeElement.hash : "";
  list.replaceChildren(...threads.map(({ thread_id, title }) => {
    const text = title || "New conversation";
    return element("li", {}, element("a", { href: `#${thread_id}`, title: text, dir: "auto" }, text));
  }));
  if (focused) list.querySelector(`a[href="${focused}"]`)?.focus();
  $("none").hidden = threads.length > 0;
  $("more").hidden = after === null;
  showHead();
}

const forget = (id) => showList(threads.filter((thread) => thread.thread_id !== id));

// --- The open conversation -----------------------------------------------------------------

function renewView() {
  view.abort();
  view = new AbortController();
  following = false;
  hideProblem();
  return view.signal;
}

/** Show a conversation from its newest messages on; `note` says why it is read again. */
async function open(id, note = "") {
  const signal = renewView();
  if (id !== current || !id) log.replaceChildren();
  current = id;
  $("earlier").hidden = true;
  $("confirm").close();
  setBusy(false);
  showHead();
  if (!id) return;
  try {
    const page = await get(at(id), { signal });
    change(() => log.replaceChildren(), { old: true });
    showOlder(page);
    showHead(page.title);
    if (note) showNotice(note);
    await follow(page.messages.at(-1), signal);
  } catch (error) {
    if (signal.aborted) return;
    showStatus("");
    if (error.code === "thread_not_found") {
      forget(id);
      history.replaceState(null, "", "#");
      open("");
    }
    showProblem(error.message, error.retryable && (() => open(id, note)));
  }
}

/** Put a page of messages above the others; what was in view stays in view. */
function showOlder({ messages, has_more }) {
  const fromEnd = scroller.scrollHeight - scroller.scrollTop;
  change(() => log.prepend(...messages.map(article)), { old: true });
  oldest = messages[0]?.message_id;
  $("earlier").hidden = !has_more;
  scroller.scrollTop = scroller.scrollHeight - fromEnd;
}

/** After a reload or a lost connection: wait for an answer that is still being written. */
async function follow(last, signal) {
  if (!last?.turn_id || (last.role === "assistant" && !last.incomplete)) return;
  const { status } = await get(`${at(current)}/turns${at(last.turn_id)}`, { signal });
  if (status === "queued" || status === "running") {
    following = true;
    showStatus("Answering…");
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    if (!signal.aborted) await follow(last, signal);
  } else if (following) {
    await Promise.all([open(current), readList()]);
  } else if (last.role === "user" && status !== "completed") {
    showProblem("This message was not answered.", () => send(last.content));
  }
}

// --- Saying something ----------------------------------------------------------------------

async function send(text, key = newKey()) {
  const missed = following; // its answer will be read together with this one's
  const signal = renewView();
  const said = article({ role: "user", content: text });
  change(() => log.append(said), { toEnd: true });
  setBusy(true);
  showHead();
  let response;
  try { // not ended with the view: what was sent is sent, whatever is looked at meanwhile
    const id = current || (await begin(signal));
    const headers = { "Idempotency-Key": key };
    response = await call(`${at(id)}/messages`, { method: "POST", body: { text }, headers });
  } catch (error) {
    refused = { text, key };
    said.remove();
    box.value = [text, box.value].filter(Boolean).join("\n");
    if (!signal.aborted) setBusy(false);
    showHead();
    showProblem(error.message, error.retryable && (() => $("form").requestSubmit()));
    return;
  }
  const closed = await listen(response, text, signal);
  if (!signal.aborted) {
    setBusy(false);
    if (!closed) await open(current, "The connection was lost, so the conversation was read again.");
    else if (missed) await open(current);
  }
  await readList().catch(() => {}); // nobody asked for it
}

/** A new conversation; it becomes the open one unless another was opened meanwhile. */
async function begin(signal) {
  const thread = await get("", { method: "POST" });
  if (!signal.aborted) {
    current = thread.thread_id;
    history.replaceState(null, "", `#${current}`);
  }
  showList([thread, ...threads]);
  return thread.thread_id;
}

/** Show an answer while it is written; false if the connection broke before its end. */
async function listen(response, text, signal) {
  const tools = new Map();
  let answer = null;
  let closed = false;
  try {
    for await (const frame of frames(response.body, signal)) {
      if (signal.aborted) return true;
      if (frame.warning) showNotice(frame.warning);
      if (frame.content) {
        answer ??= startAnswer();
        change(() => answer.querySelector("p").firstChild.appendData(frame.content));
        showStatus("Answering…");
      } else if (frame.tool) {
        const { call_id, name, status } = frame.tool;
        if (status === "called") tools.set(call_id, name.replaceAll("_", " "));
        else tools.delete(call_id);
        showStatus(tools.size ? `Using ${[...tools.values()].join(", ")}…` : "Thinking…");
      } else if (frame.status === "queued") {
        showStatus(`Waiting: ${frame.ahead} before this one.`);
      } else if (frame.status === "running") {
        showStatus("Thinking…");
      } else if (frame.status) {
        closed = true;
        if (answer && frame.status !== "completed") markCut(answer);
        if (frame.error) showProblem(frame.error, frame.retryable && (() => send(text)));
      }
    }
  } catch { /* the connection broke: not closed */ }
  answer?.removeAttribute("aria-busy");
  return closed;
}

function startAnswer() {
  const answer = article({ role: "assistant" });
  answer.ariaBusy = "true"; // read aloud when it is complete, not word by word
  change(() => log.append(answer));
  return answer;
}

// --- What people do ------------------------------------------------------------------------

/** Run an action on click, once at a time; its refusal is shown. */
function onClick(id, action) {
  let running = false;
  $(id).addEventListener("click", async () => {
    if (running) return;
    running = true;
    try {
      await action();
    } catch (error) {
      if (error instanceof Refusal) showProblem(error.message);
    }
    running = false;
  });
}

onClick("more", () => readList({ next: true }));
onClick("earlier", async () => {
  const { signal } = view;
  const page = await get(`${at(current)}?before=${encodeURIComponent(oldest)}`, { signal });
  showOlder(page);
  scroller.focus({ preventScroll: true });
});
onClick("new", () => {
  $("conversations").hidePopover();
  if (current) location.hash = "";
  box.focus();
});
onClick("delete", () => {
  $("doomed").textContent = $("title").textContent;
  $("confirm").showModal(); // closed when another conversation is opened
});
onClick("erase", async () => {
  const doomed = current;
  await call(at(doomed), { method: "DELETE" });
  forget(doomed);
  if (doomed === current) location.hash = "";
  box.focus();
});
for (const prompt of document.querySelectorAll(".prompt")) {
  prompt.addEventListener("click", () => { box.focus(); send(prompt.textContent); });
}
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = box.value;
  if (busy || !text.trim()) return;
  box.value = "";
  send(text, refused?.text === text ? refused.key : newKey());
  refused = null;
});
box.addEventListener("keydown", (event) => {
  // 229: Safari ends the composition before it tells of the Enter that ended it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  $("form").requestSubmit();
});
list.addEventListener("click", () => $("conversations").hidePopover());
matchMedia("(width >= 48rem)").addEventListener("change", () => $("conversations").hidePopover());
addEventListener("hashchange", () => open(location.hash.slice(1)));

box.focus();
readList().catch((error) => showProblem(error.message, () => location.reload()));
open(location.hash.slice(1));
