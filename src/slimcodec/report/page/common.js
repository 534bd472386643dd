"use strict";
// What the other scripts share: the data, a few helpers for elements, and the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** A new element with attributes and children; strings become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text for Plotly, which reads a little markup in names. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

const label = (name) => DATA.codecs[name]?.label ?? name;
const colour = (name) => DATA.codecs[name].colour[theme()];

/** A number with a fixed count of digits, a true minus, and – where there is none. */
function number(value, digits = 0, sign = false) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return (value < 0 ? "−" : sign ? "+" : "") + text;
}

const percent = (value, digits = 1) =>
  value === null || value === undefined ? "–" : number(value, digits, true) + " %";

/** A row of buttons of which one is pressed. `choices` are [value, text]; `choose` is called with the value. */
function choice(place, choices, chosen, choose) {
  const buttons = choices.map(([value, text]) => {
    const press = () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      choose(value);
    };
    const button = element(
      "button",
      { type: "button", "aria-pressed": String(value === chosen), onclick: press },
      text,
    );
    button.dataset.value = value;
    return button;
  });
  place.replaceChildren(...buttons);
}

/** A drop-down list. `choices` are [value, text]. */
function dropDown(choices, chosen, attributes = {}) {
  return element("select", attributes, ...options(choices, chosen));
}

function options(choices, chosen) {
  return choices.map(([value, text]) => element("option", { value, selected: value === chosen ? "" : null }, text));
}

function say(text) {
  $("said").textContent = text;
}

// ---- Steps of pruning are hidden until asked for, everywhere at once.

const rounds = { shown: false };
const onRounds = [];
/** Whether charts have this codec: always, but for steps of pruning. */
const visibleStep = (name) => rounds.shown || name === DATA.main || DATA.codecs[name]?.group !== "rounds";

function startRounds() {
  const boxes = [...document.querySelectorAll(".show-rounds")];
  for (const box of boxes) {
    box.addEventListener("change", () => {
      rounds.shown = box.checked;
      for (const other of boxes) other.checked = box.checked;
      for (const draw of onRounds) draw();
    });
  }
}

// ---- Theme: the system's until the button is used. What is drawn by script is drawn again in `onTheme`.

const onTheme = [];
const theme = () => document.documentElement.dataset.theme;
const token = (name) =>
  getComputedStyle(document.documentElement)
    .getPropertyValue("--" + name)
    .trim();

function setTheme(name, whose) {
  document.documentElement.dataset.theme = name;
  const isDark = name === "dark";
  $("theme").setAttribute("aria-pressed", String(isDark));
  $("theme").textContent = `Dark theme: ${isDark ? "on" : "off"}`;
  $("theme").title = whose;
  for (const draw of onTheme) draw();
}

(function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => setTheme(system.matches ? "dark" : "light", "As your system has it; press to change");
  system.addEventListener("change", follow);
  $("theme").addEventListener("click", () => {
    system.removeEventListener("change", follow);
    setTheme(theme() === "dark" ? "light" : "dark", "Chosen here");
  });
  follow();
})();
