// The page: it gets a run's view by server-sent events, and shows it. Nothing is kept; a page that reconnects gets what it lacks.
"use strict";

import { chart, make, short } from "./charts.js";

const by = (id) => document.getElementById(id);
const name = location.pathname.startsWith("/runs/") ? decodeURIComponent(location.pathname.slice(6)) : "";
const view = {};
const older = [];
const MANY = 40;
let everySite = false;
let shown = 15; // lines of the ledger
let ahead = 0; // seconds that the server's clock is before ours

// ---- small things ---------------------------------------------------------------------------------------------------------

const now = () => Date.now() / 1000 + ahead;
const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

function ago(seconds) {
  const s = Math.max(seconds, 0);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) if (s >= 2 * length) return `${Math.round(s / length)} ${unit}`;
  return `${Math.round(s)} s`;
}

function size(bytes) {
  for (const unit of ["B", "kB", "MB"]) {
    if (bytes < 1000) return unit === "B" ? `${bytes} B` : `${bytes.toFixed(1)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} GB`;
}

function clock(time) {
  return time === null ? "" : new Date(time * 1000).toLocaleString("sv-SE");
}

// "3 min ago", brought up to date every second without a word from a screen reader
function since(time) {
  return time === null ? "" : make("span", { "data-since": time, title: clock(time) }, `${ago(now() - time)} ago`);
}

function withheld(value) {
  return value === "withheld" ? make("span", { class: "withheld" }, "withheld") : value === null || value === undefined ? "" : String(value);
}

function cell(label, content, kind = "") {
  const empty = content === "" || content === null;
  return make("td", { class: `${kind}${empty ? " empty" : ""}` || null, "data-name": label }, content ?? "");
}

function table(caption, heads, rows, kind = "stack wide") {
  // a column in which nobody has anything says nothing
  const bare = heads.map((_, k) => k > 0 && rows.every((row) => row.children[k].classList.contains("empty")));
  heads = heads.filter((_, k) => !bare[k]);
  for (const row of rows) [...row.children].forEach((c, k) => { if (bare[k]) c.remove(); });
  const head = make("tr", {}, ...heads.map(([text, cls]) => make("th", { scope: "col", class: cls }, text)));
  return make("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    make("table", { class: kind }, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...rows)));
}

function section(id, title, ...content) {
  return make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title), ...content);
}

function facts(pairs) {
  return make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, value))));
}

// Replace a part of the page, but not what somebody has the focus in, opened, or scrolled, when it is the same.
function put(id, node) {
  const old = by(id);
  if (!node) { if (old) old.remove(); return; }
  if (!old) { by("body").append(node); return; }
  const opened = [...old.querySelectorAll("details[open] > summary")].map((s) => s.textContent);
  const focus = old.contains(document.activeElement) ? document.activeElement : null;
  const where = focus ? [...old.querySelectorAll("summary, button, [tabindex], a")].indexOf(focus) : -1;
  const left = [...old.querySelectorAll(".scroll")].map((s) => s.scrollLeft);
  old.replaceWith(node);
  for (const s of node.querySelectorAll("details > summary")) if (opened.includes(s.textContent)) s.parentElement.open = true;
  node.querySelectorAll(".scroll").forEach((s, k) => { s.scrollLeft = left[k] || 0; });
  if (where >= 0) node.querySelectorAll("summary, button, [tabindex], a")[where]?.focus({ preventScroll: true });
}

function say(state, text, code) {
  const line = by("state");
  const whole = `${state}: ${text}`;
  if (line.dataset.said === whole) return;
  line.dataset.said = whole;
  line.className = state;
  line.replaceChildren(make("strong", {}, state), text);
}

// ---- one run --------------------------------------------------------------------------------------------------------------

const ORDER = ["summary", "sites", "curves", "evaluation", "privacy", "refusals", "ledger", "about"];

function summary() {
  const r = view.run;
  const bar = r.jobs ? make("progress", { max: r.jobs, value: r.done, "aria-label": `${r.done} of ${r.jobs} jobs are done` }) : null;
  const round = r.seconds.mean === null ? "" : `${short(r.seconds.last)} s, ${short(r.seconds.mean)} s on average`;
  return make("section", { id: "summary", "aria-label": "In short" }, bar,
    ...r.notes.map((text) => make("p", { class: "note" }, text)),
    facts([
      ["jobs done", r.jobs ? `${r.done} of ${r.jobs}` : ""], ["exchanges", String(r.step)], ["last learners", r.learners.join(", ")],
      ["last exchange", round], ["sent, received", `${size(r.sent)}, ${size(r.received)}`],
      ["began", clock(r.began)], ["last sign of life", since(r.latest)], ["sites", view.sites.length ? `${view.sites.length} of ${r.expect} expected` : `0 of ${r.expect || "?"}`],
      ["joined too late", r.joined_later.join(", ")],
      ["guard L03", r.guard.guard ? (r.guard.refused.length ? `stopped the run: ${r.guard.refused.join(", ")}` : r.guard.accepted.length ? `accepted: ${r.guard.accepted.join(", ")}` : "nothing found") : ""],
    ]));
}

function tag(state, code) {
  const odd = /^[A-Z]\d\d$/.test(state);
  return make("span", { class: `tag ${odd ? "code" : state}` }, code && code !== state ? `${state} ${code}` : state);
}

function sites() {
  const noisy = Boolean(view.run.privacy);
  const heads = [["site"], ["state"], ["last sign of life"], ["plans done", "n"], ["forecast", "n"], ["cases", "n"], ["with image", "n"], ["contributed", "n"], ["late", "n"]];
  if (noisy) heads.push(["epsilon spent", "n"], ["allowed", "n"]);
  // of many sites those that something is the matter with come first
  const odd = (s) => (s.code || s.state === "late" ? 0 : 1);
  const sorted = view.sites.length > MANY ? [...view.sites].sort((a, b) => odd(a) - odd(b)) : view.sites;
  const rows = sorted.slice(0, everySite ? Infinity : MANY).map((s) => make("tr", {},
    make("th", { scope: "row" }, s.name), cell("state", tag(s.state, s.code)), cell("last sign of life", since(s.seen), "nowrap"),
    cell("plans done", s.plans_asked === null ? "" : `${s.plans_done} of ${s.plans_asked}`, "n"), cell("forecast", s.forecast === null ? "" : ago(s.forecast), "n"),
    cell("cases", withheld(s.cases), "n"), cell("with image", withheld(s.imaged), "n"), cell("contributed", String(s.contributed), "n"), cell("late", s.late ? String(s.late) : "", "n"),
    ...(noisy ? [cell("epsilon spent", s.epsilon === null ? "" : short(s.epsilon), "n"), cell("allowed", withheld("withheld"), "n")] : [])));
  const hidden = view.run.withheld ? [make("p", { class: "small" }, "Sums are masked: what a single site has or measures is withheld from the coordinator.")] : [];
  const more = rows.length < sorted.length ? make("button", { type: "button" }, `Show all ${sorted.length} sites`) : null;
  if (more) more.addEventListener("click", () => { everySite = true; put("sites", sites()); });
  return rows.length ? section("sites", "Sites", ...hidden, table(`${plural(sorted.length, "site")}; forecast: the longest work on one plan, by the site's own doctor`, heads, rows), more) : null;
}

function curves() {
  const drawn = view.curves.filter((c) => c.all.length).map((c) => chart(`${c.learner}: ${c.metric.replaceAll("_", " ")}`, "mean per case",
    [{ name: "all", all: true, points: c.all }, ...Object.entries(c.sites).filter(([, p]) => p.length).map(([site, points]) => ({ name: site, points }))]));
  if (view.round_times.length) drawn.push(chart("Time of an exchange", "seconds", [{ name: "all", all: true, points: view.round_times }]));
  const why = view.run.privacy ? "Sums have noise: no loss or metric is told while the run goes on."
    : view.run.withheld ? "By site: withheld, for sums are masked." : "";
  return drawn.length ? section("curves", "Curves", why ? make("p", { class: "small" }, why) : null, make("div", { class: "charts" }, ...drawn)) : null;
}

function evaluation() {
  const figure = (v) => (v === null || v === undefined ? "not estimable" : v.toFixed(3));
  const rows = view.evaluation.map((e) => make("tr", {}, make("th", { scope: "row" }, e.model), cell("evaluation", String(e.evaluation).replaceAll("_", " ")), cell("cases", String(e.n), "n"),
    cell("AUC", figure(e.auc), "n"), cell("AUC of pooled scores", figure(e.auc_pooled), "n"), cell("Brier", figure(e.brier), "n"), cell("log loss", figure(e.log_loss), "n")));
  for (const [model, s] of Object.entries(view.run.scores)) {
    rows.push(make("tr", {}, make("th", { scope: "row" }, model), cell("evaluation", "by noisy histograms"), cell("cases", String(s.cases ?? ""), "n"), cell("AUC", "", "n"),
      cell("AUC of pooled scores", s.value === null ? "not estimable" : `${figure(s.value)} (${figure(s.low)} to ${figure(s.high)})`, "n"), cell("Brier", "", "n"), cell("log loss", "", "n")));
  }
  return rows.length ? section("evaluation", "Evaluation", table("From sums over all sites; AUC: over pairs of patients of the same site",
    [["model"], ["evaluation"], ["cases", "n"], ["AUC", "n"], ["AUC of pooled scores", "n"], ["Brier", "n"], ["log loss", "n"]], rows)) : null;
}

function privacy() {
  const p = view.run.privacy;
  if (!p) return null;
  return section("privacy", "Privacy", facts([["noise", short(p.noise)], ["delta", p.delta === null ? "" : String(p.delta)],
    ["the whole run costs a patient at most", p.planned === null || p.planned === undefined ? "" : `epsilon ${short(p.planned)}`], ["what sites allow", withheld(p.allowed)]]),
  make("p", { class: "small" }, "Spent is what the coordinator has asked of a site in this run, at the most. Each site keeps its own account over all runs, and its limit to itself; it refuses by P09 what would be beyond it."));
}

function refusals() {
  const rows = view.refusals.map((r) => make("tr", {}, make("th", { scope: "row" }, r.site), cell("code", r.code), cell("exchanges", `${r.times}, the last: ${r.step}`, "n"),
    cell("what it means", r.meaning, "text"), cell("what to do", r.way_out, "text")));
  return rows.length ? section("refusals", "Refusals", table("Who was not in an exchange, or not in all of it, and why", [["site"], ["code"], ["exchanges", "n"], ["what it means"], ["what to do"]], rows)) : null;
}

function ledger() {
  const r = view.run;
  const seen = new Set();
  const all = [...older, ...view.lines].filter((l) => !seen.has(l.number) && seen.add(l.number)).sort((a, b) => b.number - a.number);
  const lines = all.slice(0, shown);
  const rows = lines.map((l) => make("tr", { class: l.verified ? null : "unverified" }, make("th", { scope: "row", class: "n" }, String(l.number)), cell("time", clock(l.time), "nowrap"),
    cell("what", l.verified ? l.text : `not verified: ${l.text}`, "text")));
  const first = lines.length ? lines[lines.length - 1].number : 1;
  const more = first > 1 ? make("button", { type: "button" }, `Show older lines (${first - 1} more)`) : null;
  if (more) more.addEventListener("click", () => { shown += 40; if (all.length > lines.length) put("ledger", ledger()); else page(first); });
  return section("ledger", "Ledger", make("p", { class: "small" }, `${r.verified} of ${plural(r.line_count, "line")} verified, each by the hash of the line before it; head `, make("code", {}, r.head)),
    table("The newest line first", [["line", "n"], ["time"], ["what"]], rows), more);
}

async function page(before) {
  const answer = await fetch(`/api/runs/${encodeURIComponent(name)}/lines?before=${before}`);
  if (answer.ok) { older.push(...await answer.json()); put("ledger", ledger()); }
}

function about() {
  const told = (o) => Object.entries(o).filter(([, v]) => v !== "").map(([k, v]) => [k, String(v).replaceAll(",", ", ")]);
  return section("about", "Configuration and versions", facts(told(view.configuration)), facts([...told(view.run.versions), ["state hash", view.run.state_hash]]));
}

const MADE = { summary, sites, curves, evaluation, privacy, refusals, ledger, about };
const NEEDS = { summary: ["run", "sites"], sites: ["sites", "run"], curves: ["curves", "round_times"], evaluation: ["evaluation", "run"], privacy: ["run"], refusals: ["refusals"], ledger: ["lines"], about: ["configuration", "run"] };

function take(event) {
  const told = JSON.parse(event.data);
  ahead = told.now - Date.now() / 1000;
  delete told.now;
  Object.assign(view, told);
  const r = view.run;
  document.title = `${r.state}: ${name}`;
  by("title").textContent = name;
  by("subtitle").textContent = [r.study, r.task, r.name].filter(Boolean).join(", ");
  say(r.state, r.said);
  for (const id of ORDER) {
    const fresh = NEEDS[id].some((part) => part in told);
    if (fresh) put(id, MADE[id]());
  }
  // a part that was not there at first takes its place
  for (const id of ORDER) { const part = by(id); if (part && part !== by("body").lastElementChild) order(); }
}

function order() {
  const there = ORDER.map(by).filter(Boolean);
  const body = by("body");
  if (there.some((part, k) => body.children[k] !== part)) body.append(...there);
}

function follow() {
  const source = new EventSource(`/api/runs/${encodeURIComponent(name)}/events`);
  source.addEventListener("full", take);
  source.addEventListener("patch", take);
  source.addEventListener("open", () => { by("connection").textContent = "live"; });
  source.addEventListener("error", () => {
    by("connection").textContent = source.readyState === EventSource.CLOSED ? "not connected: load the page again" : "connection lost, trying again";
  });
}

// ---- all runs ---------------------------------------------------------------------------------------------------------------

async function list() {
  try {
    const answer = await fetch("/api/runs");
    if (!answer.ok) throw new Error(String(answer.status));
    const runs = await answer.json();
    const rows = runs.map((r) => make("tr", {}, make("th", { scope: "row" }, make("a", { href: `/runs/${encodeURIComponent(r.name)}` }, r.name)), cell("study", [r.study, r.task].filter(Boolean).join(", ")),
      cell("state", tag(r.state, r.code)), cell("jobs", r.jobs ? `${r.done} of ${r.jobs}` : "", "n"), cell("exchanges", String(r.exchanges), "n"), cell("sites", String(Object.keys(r.sites).length), "n"),
      cell("last sign of life", since(r.latest), "nowrap")));
    const text = JSON.stringify(runs);
    if (by("body").dataset.said !== text) {
      by("body").dataset.said = text;
      put("runs", rows.length ? make("section", { id: "runs", "aria-label": "Runs" }, table(`${plural(rows.length, "run")}, the newest first`,
        [["run"], ["study"], ["state"], ["jobs", "n"], ["exchanges", "n"], ["sites", "n"], ["last sign of life"]], rows)) : make("p", { id: "runs" }, "There is no run yet."));
    }
    by("connection").textContent = "live";
  } catch {
    by("connection").textContent = "connection lost, trying again";
  }
  setTimeout(list, 5000);
}

setInterval(() => {
  for (const span of document.querySelectorAll("[data-since]")) {
    const text = `${ago(now() - Number(span.dataset.since))} ago`;
    if (span.textContent !== text) span.textContent = text;
  }
}, 1000);

if (name) follow(); else list();
