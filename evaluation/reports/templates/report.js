"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const list = document.getElementById("list");
const count = document.getElementById("count");
const more = document.getElementById("more");
const search = document.getElementById("search");
const category = document.getElementById("category");
const order = document.getElementById("order");
const buttons = [...document.querySelectorAll("button[data-view]")];
const verdict = document.body.dataset.verdict;
const STEP = 50;
const scored = row => row.score !== undefined;
const has = (row, flag) => (row.flags || []).includes(flag);
const VIEWS = {
  all: () => true,
  worst: row => scored(row) && row.score < 40,
  borderline: row => scored(row) && row.score >= 40 && row.score <= 60,
  best: row => scored(row) && row.score >= 80,
  unscored: row => !scored(row),
  looping: row => has(row, "looping"),
  cut: row => has(row, "cut"),
  seen: row => has(row, "seen in training"),
  labelled: row => row.label !== undefined,
  judged: row => row.origin === "judge",
  exact: row => row.origin === "exact" || (row.origin === "metric" && row.score === 100),
};
const byScore = (a, b) => (a.score ?? 101) - (b.score ?? 101) || (a.chrf ?? 0) - (b.chrf ?? 0);
const length = row => (row.response || "").length;
const ORDERS = {
  data: () => 0,
  worst: byScore,
  best: (a, b) => (b.score ?? -1) - (a.score ?? -1) || (b.chrf ?? 0) - (a.chrf ?? 0),
  longest: (a, b) => length(b) - length(a),
};
const NATURAL = {worst: "worst", borderline: "worst", best: "best"};
let view = "all";
let shown = [];
let drawn = 0;

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function haystack(row) {
  row.words ??= [row.instruction, row.input, row.reference, row.response, row.reason, row.detail, row.category,
    "row " + row.row, row.id].filter(Boolean).join("\n").toLowerCase();
  return row.words;
}

function scoreOf(row) {
  if (!scored(row)) return element("span", "score missing", row.unscored || "no score");
  const chip = element("span", "score " + (row.score >= 80 ? "high" : row.score >= 40 ? "middle" : "low"),
    String(row.score));
  if (row.origin === "judge" && verdict) {
    const mark = element("span", "mark " + verdict, "●");
    mark.title = "by the judge, whose verdict is: " + verdict;
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", mark.title);
    chip.append(mark);
  }
  return chip;
}

function part(name, text, kind) {
  const box = element("div", kind);
  box.append(element("h4", "", name), element("pre", "", text));
  return box;
}

function verdictOf(row) {
  if (!scored(row)) return "no score: " + (row.unscored || "unknown") + (row.detail ? "; " + row.detail : "");
  const origin = {judge: "by the judge (" + verdict + ")", exact: "an exact match, not judged",
    accept: "an accepted answer, not judged", check: "by the row's check, not judged", empty: "an empty response, not judged", metric: "by exact match"}[row.origin] || row.origin;
  return row.score + " of 100, " + origin;
}

function fill(box, row) {
  const parts = element("div", "parts");
  for (const [user, assistant] of row.history || []) parts.append(part("earlier: asked", user), part("earlier: answered", assistant));
  parts.append(part("instruction", row.instruction));
  if (row.input) parts.append(part("input", row.input));
  const pair = element("div", "pair");
  pair.append(part("reference", row.reference || "(none)", "reference"), part("response", row.response ?? "(none)", "answer"));
  parts.append(pair, part("verdict", verdictOf(row)));
  if (row.label !== undefined) parts.append(part("a person's label", row.label + " of 100"));
  if (row.questions) parts.append(part("the judge's answers", row.questions.map(([question, answer]) => answer + ": " + question).join("\n")));
  if (row.doubt) parts.append(part("doubt", row.doubt));
  if (row.reason) parts.append(part("the judge's reason", row.reason));
  const facts = [row.metrics, row.tokens === undefined ? "" : row.tokens + " tokens", row.stop ? "ended by " + row.stop : "",
    row.sample === undefined ? "" : "response " + row.sample, row.bits === undefined ? "" : row.bits + " bits a byte of the reference",
    row.source + ", row " + row.row, row.id];
  parts.append(element("p", "soft", facts.filter(Boolean).join(" · ")));
  box.append(parts);
}

function draw() {
  const next = shown.slice(drawn, drawn + STEP);
  for (const row of next) {
    const box = element("details", "row");
    box.id = "row-" + row.id;
    const summary = element("summary");
    const tags = element("span", "tags");
    if (row.category !== undefined) tags.append(row.category);
    if (row.label !== undefined) tags.append(element("span", "tag person", "label " + row.label));
    for (const flag of row.flags || []) tags.append(element("span", "tag", flag));
    const what = [row.instruction, row.input].filter(Boolean).join(" · ").replace(/\s+/g, " ");
    summary.append(scoreOf(row), element("span", "soft", "row " + row.row + (row.sample === undefined ? "" : "." + row.sample)), element("span", "what", what.slice(0, 300)), tags);
    box.append(summary);
    box.addEventListener("toggle", () => {
      if (box.open && box.childElementCount === 1) fill(box, row);
    });
    list.append(box);
  }
  drawn += next.length;
  more.hidden = drawn >= shown.length;
  more.textContent = "Show more (" + (shown.length - drawn) + " left)";
}

function update() {
  const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  shown = rows.filter(row => VIEWS[view](row) && (category.value === "" || "=" + (row.category ?? "") === category.value)
    && words.every(word => haystack(row).includes(word)));
  const key = order.value === "auto" ? NATURAL[view] || "data" : order.value;
  shown.sort(ORDERS[key]);
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  count.textContent = shown.length + " of " + rows.length + " rows";
  list.replaceChildren();
  drawn = 0;
  draw();
}

function remember() {
  const state = new URLSearchParams();
  if (view !== "all") state.set("view", view);
  if (category.value) state.set("category", category.value);
  if (search.value) state.set("text", search.value);
  if (order.value !== "auto") state.set("order", order.value);
  try { history.replaceState(null, "", "#" + state); } catch { /* a page without an address */ }
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  if (Object.hasOwn(VIEWS, state.get("view") || "")) view = state.get("view");
  search.value = state.get("text") || "";
  for (const [field, name] of [[category, "category"], [order, "order"]]) {
    if ([...field.options].some(option => option.value === state.get(name))) field.value = state.get(name);
  }
  update();
  if (state.get("open")) {
    const box = [...list.children].find(child => child.id === "row-" + state.get("open"));
    if (box) { box.open = true; box.scrollIntoView(); }
  }
}

const names = [...new Set(rows.map(row => row.category))].sort((a, b) => (a === undefined) - (b === undefined) || (a < b ? -1 : 1));
if (names.length < 2) category.hidden = true;
for (const name of names) {
  const option = element("option", "", name === undefined ? "(no category)" : name);
  option.value = "=" + (name ?? "");
  category.append(option);
}
for (const button of buttons) {
  const total = rows.filter(VIEWS[button.dataset.view]).length;
  button.append(" " + total);
  button.disabled = total === 0;
  button.hidden = total === 0 && "optional" in button.dataset;
  button.addEventListener("click", () => { view = button.dataset.view; update(); remember(); });
}
let timer = 0;
search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => { update(); remember(); }, 120); });
for (const field of [category, order]) field.addEventListener("change", () => { update(); remember(); });
more.addEventListener("click", () => {
  const before = list.childElementCount;
  draw();
  list.children[before]?.querySelector("summary").focus();
});
window.addEventListener("hashchange", recall);
recall();
