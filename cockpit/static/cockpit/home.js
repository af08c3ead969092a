// Renews the fleet on the home page; sleeps while the page is hidden.
"use strict";

const EVERY_MS = 5000;
const place = document.getElementById("fleet");

async function renew() {
  const answer = await fetch(place.dataset.source, { credentials: "same-origin", redirect: "error" });
  if (answer.status === 403) {
    location.reload(); // the session has ended: the page leads to the login
    return;
  }
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  place.innerHTML = await answer.text();
  redraw(JSON.parse(place.firstElementChild.dataset.chart));
}

function redraw(data) {
  const chart = Chart.getChart("throughput");
  if (!chart) return;
  chart.data.labels = data.labels;
  data.datasets.forEach((line, number) => { chart.data.datasets[number].data = line.data; });
  chart.update();
}

function countFromZero() {
  const scale = Chart.getChart("throughput").options.scales.y;
  scale.min = 0;
  scale.ticks.precision = 0;
  Chart.getChart("throughput").update();
}

function sayLost() {
  const note = document.getElementById("renewed");
  if (!note || note.classList.contains("lost")) return;
  note.classList.add("lost");
  note.textContent += " - no answer now, trying again";
}

async function tick() {
  if (!document.hidden) await renew().catch(sayLost);
  setTimeout(tick, EVERY_MS);
}

setTimeout(tick, EVERY_MS);
window.addEventListener("load", () => setTimeout(countFromZero)); // the theme draws at load
