// Renews the bridge's figures; sleeps while the page is hidden.
"use strict";

const EVERY_MS = 2000;

async function renew() {
  const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("live");
  if (fresh) document.getElementById("live").replaceChildren(...fresh.childNodes);
}

async function tick() {
  const note = document.getElementById("renewed");
  if (!document.hidden) {
    const lost = await renew().then(() => false, () => true);
    note.textContent = lost ? "No answer now, trying again." : "";
  }
  setTimeout(tick, EVERY_MS);
}

setTimeout(tick, EVERY_MS);
