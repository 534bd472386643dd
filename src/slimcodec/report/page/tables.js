"use strict";
// The BD-rate table, which has a choice of anchor and metric, and every table as CSV.

const bd = { anchor: DATA.anchors[0], metric: null, published: false };

const BD_COLUMNS = [
  ["mean of curves", (entry) => entry.percent, percent],
  ["95 % interval", (entry) => entry.interval?.map((value) => percent(value)).join(" … ") ?? "–"],
  ["cubic", (entry) => entry.cubic_percent, percent],
  ["mean of pictures", (entry) => entry.pictures_percent, percent],
  ["range", (entry) => rangeOf(entry)],
  [
    "coverage",
    (entry) => entry.coverage,
    (value) => (value === null || value === undefined ? "–" : number(100 * value) + " %"),
  ],
  ["fixed range", (entry) => entry.fixed?.percent, percent],
  ["mean difference", (entry) => entry.bd_quality, (value) => number(value, DATA.metrics[bd.metric].digits, true)],
];

function rangeOf(entry) {
  if (entry.low === null || entry.low === undefined) return "–";
  const digits = DATA.metrics[bd.metric].unit === "dB" ? 1 : 3;
  return `${number(entry.low, digits)}–${number(entry.high, digits)} ${DATA.metrics[bd.metric].unit}`.trim();
}

const bdEntries = () => Object.entries(DATA.bdRate[bd.anchor] ?? {}).filter(([, metrics]) => metrics[bd.metric]);
const isQuoted = (name) => DATA.codecs[name]?.group === "quoted";

function bdMetrics() {
  const found = new Set(Object.values(DATA.bdRate[bd.anchor] ?? {}).flatMap(Object.keys));
  return Object.keys(DATA.metrics).filter((name) => found.has(name));
}

function buildBd() {
  if (!DATA.anchors.length || !bdMetrics().length) {
    document.querySelector('[data-table="bd-table"]').remove();
    return $("bd").replaceChildren(
      element(
        "p",
        { class: "note" },
        "There is no codec to compare with at four qualities or more, so there are no BD-rates.",
      ),
    );
  }
  if (!bdMetrics().includes(bd.metric)) bd.metric = bdMetrics()[0];
  const anchors = dropDown(
    DATA.anchors.map((name) => [name, label(name)]),
    bd.anchor,
    { id: "bd-anchor" },
  );
  const metrics = dropDown(
    bdMetrics().map((name) => [name, DATA.metrics[name].axis]),
    bd.metric,
    { id: "bd-metric" },
  );
  anchors.addEventListener("change", () => {
    bd.anchor = anchors.value;
    buildBd();
  });
  metrics.addEventListener("change", () => {
    bd.metric = metrics.value;
    buildBd();
  });
  const tools = element(
    "div",
    { class: "tools" },
    element("label", { class: "field" }, "against", anchors),
    element("label", { class: "field" }, "metric", metrics),
    publishedBox(),
  );
  const scroll = element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "bd-title" },
    bdTable(),
  );
  $("bd").replaceChildren(tools, scroll, element("p", { class: "muted small" }, bdFootnote()));
}

function publishedBox() {
  if (!bdEntries().some(([name]) => isQuoted(name))) return null;
  const box = element("input", { type: "checkbox", id: "bd-published" });
  box.checked = bd.published;
  box.addEventListener("change", () => {
    bd.published = box.checked;
    buildBd();
  });
  return element("label", { class: "check" }, box, " published curves too");
}

function bdTable() {
  const entries = bdEntries().filter(([name]) => bd.published || !isQuoted(name));
  entries.sort(([, a], [, b]) => (a[bd.metric].percent ?? Infinity) - (b[bd.metric].percent ?? Infinity));
  const heads = ["codec", ...BD_COLUMNS.map(([title]) => title)];
  const head = element(
    "tr",
    {},
    ...heads.map((text, i) => element("th", { scope: "col", class: i ? "number" : null }, text)),
  );
  const rows = entries.map(([name, metrics]) => bdRow(name, metrics[bd.metric]));
  return element(
    "table",
    { id: "bd-table", "data-name": `bd-rate-${bd.anchor}-${bd.metric}` },
    element("thead", {}, head),
    element("tbody", {}, ...rows),
  );
}

function bdRow(name, entry) {
  const title = element("th", { scope: "row" }, label(name));
  const row = element("tr", { class: name === DATA.main ? "main" : null }, title);
  if (entry.percent === null || entry.percent === undefined) {
    row.append(element("td", { colspan: BD_COLUMNS.length }, entry.reason ?? "cannot be compared"));
    return row;
  }
  for (const [, value, text] of BD_COLUMNS) {
    const found = value(entry);
    row.append(
      element("td", { class: "number", "data-value": text ? (found ?? "") : null }, text ? text(found) : found),
    );
  }
  return row;
}

function bdFootnote() {
  const fixed = bdEntries()
    .map(([, metrics]) => metrics[bd.metric].fixed)
    .find(Boolean);
  const words = [
    "Bits that a codec needs more than the anchor for the same quality; negative is fewer.",
    "PCHIP over the logarithm of the rate, averaged over the range that both curves cover.",
    "The interval is a bootstrap over the pictures; against a published curve there is none.",
    "The mean difference is that of the metric at equal rate.",
  ];
  if (fixed)
    words.push(`The fixed range is ${number(fixed.low)}–${number(fixed.high)} ${DATA.metrics[bd.metric].unit}.`);
  return words.join(" ");
}

// ---- CSV

/** A table's cells as CSV, numbers with all their digits. */
function csvOf(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const cell = (entry) => quoted(entry.dataset.value ?? entry.textContent.trim());
  return [...table.rows].map((row) => [...row.cells].map(cell).join(",")).join("\n") + "\n";
}

async function copyTable(button) {
  const table = $(button.dataset.table);
  const how = await copyText(csvOf(table), `${table.dataset.name}.csv`);
  const before = "Copy as CSV";
  button.textContent = how;
  say(`${how}: ${table.tBodies[0].rows.length} rows`);
  setTimeout(() => (button.textContent = before), 2000);
}

/** To the clipboard in the first way that the browser allows, or else as a file. */
async function copyText(text, name) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    return copyBySelection(text) ? "Copied" : download(text, name);
  }
}

function copyBySelection(text) {
  const area = element("textarea", { class: "sr", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

function download(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  return "Saved";
}

(function startTables() {
  buildBd();
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copyTable(button));
})();
