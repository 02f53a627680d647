"use strict";
// All text from the device enters the page by textContent: a file name can be anything, and none of it is markup.

const get = (id) => document.getElementById(id);
const list = get("list");
let seen = null; // what the device said last
let chosen = null; // id of the result that is shown
let follows = true; // show the newest until somebody chooses
let heat = false;
let answered = Date.now();

const WORDS = { positive: "Above the threshold", negative: "Below the threshold", refused: "Not scored" };
const STYLES = { positive: "above", negative: "below", refused: "refused" };
const SHORT = { positive: "Above", negative: "Below", refused: "Not scored" };
const SIGNS = { positive: "▲", negative: "▽", refused: "—" };
// Cut, not rounded: what is below the threshold must not look as if it were at it.
const number = (value) => (Math.floor(value * 1000 + 1e-6) / 1000).toFixed(3);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function make(tag, style, text) {
  const element = document.createElement(tag);
  if (style) element.className = style;
  if (text !== undefined) element.textContent = text;
  return element;
}

function when(text) {
  const time = new Date(text);
  const day = time.toDateString() === new Date().toDateString() ? "Today" : time.toLocaleDateString();
  return `${day}, ${time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" })}`;
}

// A picture may fail because the network does: one more try before the page says that there is none.
function again(picture, giveUp) {
  if (picture.dataset.tried === picture.getAttribute("src")) return giveUp();
  picture.dataset.tried = picture.getAttribute("src");
  setTimeout(() => { if (picture.dataset.tried === picture.getAttribute("src")) picture.src = picture.dataset.tried; }, 1500);
}

function row(result) {
  const item = make("li");
  item.id = `r-${result.id}`;
  item.dataset.id = result.id;
  item.setAttribute("role", "option");
  const blank = () => make("span", "thumb", result.sent ? "✉" : "?");
  if (result.picture) {
    const picture = make("img", "thumb");
    picture.alt = "";
    picture.loading = "lazy";
    picture.src = `thumb/${result.id}.jpg`;
    picture.addEventListener("error", () => again(picture, () => picture.replaceWith(blank())));
    item.append(picture);
  } else item.append(blank());
  const what = make("span", `what ${STYLES[result.decision]}`);
  what.append(make("span", "", `${SIGNS[result.decision]} ${SHORT[result.decision]}`));
  if (result.decision !== "refused") what.append(make("span", "number", number(result.probability)));
  item.append(what, make("span", "time", [when(result.time), result.name].filter(Boolean).join(" · ")));
  item.addEventListener("click", () => choose(result.id, true));
  return item;
}

function showList() {
  // Rows that are there already stay: their pictures need not be loaded again.
  const rows = new Map([...list.children].map((item) => [item.dataset.id, item]));
  list.replaceChildren(...seen.results.map((result) => rows.get(result.id) || row(result)));
}

function choose(id, byHand) {
  if (byHand) follows = seen.results.length > 0 && id === seen.results[0].id;
  chosen = id;
  const at = seen.results.findIndex((result) => result.id === id);
  for (const item of list.children) item.setAttribute("aria-selected", String(item.dataset.id === id));
  const item = get(`r-${id}`);
  if (item) {
    list.setAttribute("aria-activedescendant", item.id);
    if (byHand) item.scrollIntoView({ block: "nearest" });
  }
  if (at >= 0) showResult(seen.results[at]);
}

function showFilm(result) {
  const film = get("film");
  const none = get("nofilm");
  const missing = (text) => { film.hidden = true; none.hidden = false; none.textContent = text; };
  const source = heat && hasHeat(result) ? `overlay/${result.id}.png` : `xray/${result.id}.jpg`;
  get("toggle").hidden = !hasHeat(result);
  get("toggle").setAttribute("aria-pressed", String(heat));
  if (result.sent) return missing("This X-ray was sent over the network. Its sender has the answer; the device kept no picture.");
  if (!result.picture) return missing("This file could not be read as an X-ray, so there is no picture.");
  const gone = "The X-ray's file is not in its folder any more, or it was changed. The result stands.";
  film.onerror = () => again(film, () => {
    if (!source.startsWith("overlay")) return missing(gone);
    heat = false; // the X-ray without its heat map is better than nothing
    showFilm(result);
    get("toggle").hidden = true;
  });
  film.onload = () => { none.hidden = true; film.hidden = false; };
  film.alt = `The X-ray${heat && hasHeat(result) ? " with the heat map" : ""}`;
  if (film.getAttribute("src") !== source) film.src = source;
  else if (film.complete && film.naturalWidth) film.onload();
}

// Without [explain] overlay there are numbers and no picture of them.
const hasHeat = (result) => Boolean(result.picture && result.explanation && result.explanation.overlay);

function showResult(result) {
  const style = STYLES[result.decision];
  get("when").textContent = when(result.time);
  get("headline").textContent = WORDS[result.decision];
  get("headline").className = style;
  get("caption").textContent = result.name || `X-ray ${result.image.slice(0, 12)}`;
  const meaning = get("meaning");
  const facts = get("facts");
  facts.replaceChildren();
  const fact = (name, text) => facts.append(make("dt", "", name), make("dd", "", text));
  const scored = result.decision !== "refused";
  get("scale").hidden = !scored;
  if (scored) {
    const over = result.decision === "positive";
    meaning.textContent = over
      ? `This X-ray resembles the “${result.label_positive}” X-rays that the model learned from. What that means is for a radiologist to say.`
      : `This X-ray resembles the “${result.label_positive}” X-rays that the model learned from less than the threshold asks for. That rules nothing out.`;
    get("score").textContent = number(result.probability);
    get("scored").textContent = `score for ${result.label_positive}`;
    get("scale").classList.toggle("over", over);
    const percent = (value) => `${100 * Math.min(1, Math.max(0, value))}%`;
    document.querySelector(".fill").style.width = percent(result.probability);
    document.querySelector(".mark").style.left = percent(result.threshold);
    const text = document.querySelector(".marktext");
    text.textContent = `threshold ${number(result.threshold)}`;
    text.style.left = percent(Math.min(0.8, Math.max(0.2, result.threshold)));
    fact("Suitable", result.suitability ? suitability(result.suitability) : "not checked by this model");
    const inside = result.explanation && result.explanation.lung_share;
    if (typeof inside === "number") fact("Heat map", `${Math.round(100 * inside)}% of it lies inside the lungs`);
  } else {
    meaning.textContent = "The device gave this file no score, and says why:";
    fact("Why", capital(result.refused.what));
    fact("Found", result.refused.came);
    fact("Needed", result.refused.expected);
    fact("What to do", capital(result.refused.do));
  }
  fact("X-ray", result.image.slice(0, 12));
  showFilm(result);
}

function suitability(found) {
  const words = Object.entries(found).filter(([, value]) => typeof value !== "object").slice(0, 4);
  return words.length ? `yes (${words.map(([name, value]) => `${name.replaceAll("_", " ")} ${short(value)}`).join(", ")})` : "yes";
}

const short = (value) => (typeof value === "number" ? Number(value.toPrecision(3)) : value);

function showState() {
  const names = Object.keys(seen.problems);
  const state = get("state");
  const words = !seen.works ? "Needs help" : names.length ? "Works, with a hitch" : seen.queue.waiting ? "Working" : "Ready";
  state.className = `state ${!seen.works ? "bad" : names.length ? "warn" : "good"}`;
  if (state.querySelector(".words").textContent !== words) state.querySelector(".words").textContent = words;
  get("device").textContent = seen.device;
  const box = get("problems");
  box.hidden = names.length === 0;
  box.className = `problems ${seen.works ? "mild" : ""}`;
  box.replaceChildren(...names.map((name) => make("p", "", capital(seen.problems[name]))));
  if (seen.works && names.length) box.append(make("p", "", "Nothing is lost: the results are kept and sent later."));
  const health = get("health");
  health.replaceChildren();
  const add = (name, text, style) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", style || "", text));
    health.append(pair);
  };
  add("Waiting", String(seen.queue.waiting));
  if (seen.broker) {
    const away = Boolean(seen.broker.error);
    add("Reports", away ? `broker away, ${seen.queue.unsent} kept` : `sent${seen.queue.unsent ? `, ${seen.queue.unsent} on the way` : ""}`, away ? "warn" : "");
  } else add("Reports", "beside the X-rays only");
  if (seen.disk.total_bytes) {
    const share = seen.disk.free_bytes / seen.disk.total_bytes;
    add("Disk", `${(seen.disk.free_bytes / 1e9).toFixed(1)} GB free`, share < 0.02 ? "bad" : share < 0.1 ? "warn" : "");
  }
  add("Model", seen.bundle.name);
}

function show(news) {
  const before = seen && seen.results[0] ? seen.results[0].id : null;
  seen = news;
  answered = Date.now();
  showState();
  const any = news.results.length > 0;
  get("empty").hidden = any;
  get("result").hidden = !any;
  document.querySelector("nav").hidden = !any;
  if (!any) return;
  showList();
  const newest = news.results[0];
  if (before && before !== newest.id) get("live").textContent = `New X-ray: ${WORDS[newest.decision]}.`;
  const stays = news.results.some((result) => result.id === chosen);
  choose(follows || !stays ? newest.id : chosen, false);
}

function step(by) {
  if (!seen || !seen.results.length) return;
  const at = seen.results.findIndex((result) => result.id === chosen);
  choose(seen.results[Math.min(seen.results.length - 1, Math.max(0, at + by))].id, true);
}

function closely(on) {
  document.body.classList.toggle("closely", on);
  (on ? get("detail") : list).focus();
}

function toggleHeat() {
  heat = !heat;
  const result = seen && seen.results.find((one) => one.id === chosen);
  if (result) showFilm(result);
}

const KEYS = {
  ArrowDown: () => step(1), j: () => step(1), ArrowUp: () => step(-1), k: () => step(-1),
  Home: () => step(-Infinity), n: () => step(-Infinity), End: () => step(Infinity),
  Enter: () => closely(true), Escape: () => closely(false), h: toggleHeat,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("button, a, input")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (KEYS[key]) { event.preventDefault(); KEYS[key](); }
});
get("toggle").addEventListener("click", toggleHeat);

function lost() {
  const state = get("state");
  state.className = "state bad";
  state.querySelector(".words").textContent = "No connection to the device";
}

function listen() {
  const events = new EventSource("api/events");
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onopen = () => { answered = Date.now(); };
  events.onerror = () => {
    lost();
    // A refused stream (the login ran out) does not come back by itself.
    if (events.readyState === EventSource.CLOSED) {
      fetch("api/state").then((answer) => { if (answer.status === 401) location.assign("login"); }).catch(() => {});
      setTimeout(listen, 3000);
    }
  };
}
listen();
