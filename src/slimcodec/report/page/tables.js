"use strict";
// The BD-rate table, which has a choice of anchor and metric; every table in any order, and as CSV.

const bd = { anchor: bdAnchors()[0] ?? null, metric: null, published: false, rounds: false };

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

const bdEntries = () => Object.entries(bdRates(bd.anchor, bd.metric));

/** The metrics of which the anchor has a curve. */
function bdMetrics() {
  return Object.keys(DATA.metrics).filter((name) => enough(DATA.curves[name][bd.anchor]));
}

function buildBd() {
  if (!bd.anchor) {
    document.querySelector('[data-table="bd-table"]').remove();
    const sentence = "There is no codec to compare with at four qualities or more, so there are no BD-rates.";
    return $("bd").replaceChildren(element("p", { class: "note" }, sentence));
  }
  if (!bdMetrics().includes(bd.metric)) bd.metric = bdMetrics()[0];
  const anchors = anchorList("bd-anchor", bd.anchor, (name) => {
    bd.anchor = name;
    buildBd();
  });
  const metrics = dropDown(
    bdMetrics().map((name) => [name, DATA.metrics[name].axis]),
    bd.metric,
    { id: "bd-metric" },
  );
  metrics.addEventListener("change", () => {
    bd.metric = metrics.value;
    buildBd();
  });
  const tools = element(
    "div",
    { class: "tools" },
    anchors,
    element("label", { class: "field" }, "metric", metrics),
    groupBox("bd-rounds", isRound, "rounds", " pruning rounds too"),
    groupBox("bd-published", isQuoted, "published", " published curves too"),
  );
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "bd-title" };
  const table = bdTable();
  $("bd").replaceChildren(
    tools,
    element("div", region, table),
    element("p", { class: "muted small" }, bdFootnote()),
  );
  makeSortable(table);
}

/** A box that shows a group of codecs in the table, or nothing where there is none. */
function groupBox(id, isOf, which, text) {
  if (!bdEntries().some(([name]) => isOf(name))) return null;
  const box = element("input", { type: "checkbox", id });
  box.checked = bd[which];
  box.addEventListener("change", () => {
    bd[which] = box.checked;
    buildBd();
  });
  return element("label", { class: "check" }, box, text);
}

function bdTable() {
  const isListed = (name) => (bd.published || !isQuoted(name)) && (bd.rounds || !isRound(name) || name === DATA.main);
  const entries = bdEntries().filter(([name]) => isListed(name));
  entries.sort(([, a], [, b]) => (a.percent ?? Infinity) - (b.percent ?? Infinity));
  const heads = ["codec", ...BD_COLUMNS.map(([title]) => title)];
  const head = element(
    "tr",
    {},
    ...heads.map((text, i) => element("th", { scope: "col", class: i ? "number" : null }, text)),
  );
  const rows = entries.map(([name, entry]) => bdRow(name, entry));
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
    .map(([, entry]) => entry.fixed)
    .find(Boolean);
  const words = [
    "Bits that a codec needs more than the anchor for the same quality; negative is fewer.",
    "PCHIP over the logarithm of the rate, averaged over the range that both curves cover.",
    "The interval is a bootstrap over the pictures; against a published curve there is none.",
    "The mean difference is that of the metric at equal rate.",
  ];
  if (!(bd.anchor in DATA.bdRate)) words.push("Against this anchor the mean curves alone are compared, in this page.");
  if (fixed)
    words.push(`The fixed range is ${number(fixed.low)}–${number(fixed.high)} ${DATA.metrics[bd.metric].unit}.`);
  return words.join(" ");
}

// ---- Order

/** Headers that sort: numbers from the largest or the smallest, words by the alphabet; what is missing comes last. */
function makeSortable(table) {
  if (table.tBodies[0].rows.length < 2) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const press = () => sortBy(table, column, head.getAttribute("aria-sort") !== "ascending");
    head.replaceChildren(element("button", { type: "button", class: "sort", onclick: press }, head.textContent.trim()));
  });
}

function sortBy(table, column, ascending) {
  const heads = [...table.tHead.rows[0].cells];
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  const sign = ascending ? 1 : -1;
  rows.sort((a, b) => compare(valueIn(a, column), valueIn(b, column), sign));
  table.tBodies[0].append(...rows);
}

function valueIn(row, column) {
  const cell = row.cells[column];
  if (!cell || cell.dataset.value === "" || cell.textContent.trim() === "–") return null;
  const value = Number.parseFloat(cell.dataset.value ?? cell.textContent.replace("−", "-"));
  return cell.dataset.value === undefined && Number.isNaN(value) ? cell.textContent.trim() : value;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
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
  for (const table of document.querySelectorAll("table[data-name]")) makeSortable(table);
  buildBd();
  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copyTable(button));
})();
