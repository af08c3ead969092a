// The theme opens and closes the groups of the navigation by a click alone: let the keyboard do it too.
"use strict";

function makeButton(head) {
  const list = head.parentElement.querySelector("ol");
  const say = () => head.setAttribute("aria-expanded", String(list.style.display !== "none"));
  head.tabIndex = 0;
  head.setAttribute("role", "button");
  head.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    head.click();
  });
  new MutationObserver(say).observe(list, { attributes: true, attributeFilter: ["style"] });
  say();
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("#nav-sidebar-apps h2.cursor-pointer").forEach(makeButton);
});
