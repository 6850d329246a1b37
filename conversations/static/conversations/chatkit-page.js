// The page of OpenAI's ChatKit component: tells the component where this site's API is and how to
// ask it. The component itself comes from OpenAI's CDN; nothing here depends on what is in it but
// the options and events that its published types name.

(() => {
  "use strict";

  const { api, domainKey, signIn } = document.body.dataset;
  const [chatkit, component, status] = ["chatkit", "component", "status"].map((id) =>
    document.getElementById(id));

  function show(text, { isProblem = false } = {}) {
    status.textContent = text;
    status.hidden = !text;
    status.classList.toggle("problem", isProblem);
  }

  /** fetch with this site's session; what goes elsewhere gets nothing of ours. */
  async function fetchAsUser(input, init = {}) {
    const address = new URL(input instanceof Request ? input.url : input, location.href);
    if (address.origin !== location.origin) return fetch(input, init);
    const headers = new Headers(init.headers ?? (input instanceof Request ? input.headers : undefined));
    headers.set("X-CSRFToken", document.cookie.match(/(?:^|;\s*)csrftoken=([^;]*)/)?.[1] ?? "");
    const response = await fetch(input, { ...init, headers, credentials: "same-origin" });
    if (response.status === 401) {
      const here = location.pathname + location.hash;
      location.assign(`${signIn}?next=${encodeURIComponent(here)}`);
    }
    return response;
  }

  /** The thread after the # of the address: a reload, or a link, opens it again. */
  const threadInAddress = () => location.hash.match(/^#([\w-]{36})$/)?.[1] ?? null;

  function rememberThread({ detail }) {
    history.replaceState(null, "", detail.threadId ? `#${detail.threadId}` : location.pathname);
  }

  function options() {
    return {
      api: { url: api, domainKey, fetch: fetchAsUser, uploadStrategy: { type: "two_phase" } },
      initialThread: threadInAddress(),
      theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
      history: { enabled: true, showDelete: true, showRename: true },
      threadItemActions: { feedback: true, retry: true },
      composer: { attachments: { enabled: true } },
    };
  }

  component.addEventListener("error", () => {
    show("The component could not be loaded from OpenAI's CDN. It cannot work without internet, "
      + "or where that address is blocked. Our own chat page needs nothing from elsewhere.",
    { isProblem: true });
  });
  chatkit.addEventListener("chatkit.ready", () => show(""));
  chatkit.addEventListener("chatkit.thread.change", rememberThread);
  chatkit.addEventListener("chatkit.error", ({ detail }) => {
    show(`The component reports: ${detail?.error?.message ?? "an error"}`, { isProblem: true });
  });
  customElements.whenDefined("openai-chatkit").then(() => chatkit.setOptions(options()));
})();
