// One picture: sent as a client sends it, and what the guard made of it.

import { ask } from "./server.js";
import { percent, watch } from "./traffic.js";

const NO_RECTIFIED = "not shown: the guard was exported without --with-rectified";
const NO_BARE = "not known: exported without --with-bare";
const SHOWN = 256;

const at = (id) => document.getElementById(id);
const PICTURES = ["input", "removed", "rectified"];
const notes = new Map(PICTURES.map((id) => [id, at(`${id}-note`).textContent]));
let latest = null;
let span = 0;

/** Examine one picture; an earlier one that is still under way is given up. */
export async function examine(file) {
  latest?.abort();
  const mine = (latest = new AbortController());
  at("problem").textContent = "";
  at("examine").setAttribute("aria-busy", "true");
  setVerdict("busy", "Examining …", file.name);
  try {
    const answer = await ask("v1/classify?explain=true", {
      method: "POST",
      body: file,
      // Not `file.type`, which goes by the name: the server looks at what is inside.
      headers: { "Content-Type": "application/octet-stream" },
      signal: mine.signal,
    });
    show(answer, file.name);
  } catch (error) {
    if (mine.signal.aborted) return;
    forget();
    const lost = error.status === undefined ? "The answer cannot be shown." : error.message;
    at("problem").textContent = `${file.name}: ${lost}`;
    setVerdict("none", "Nothing examined", "Choose another picture, or the same one again.");
  } finally {
    if (latest === mine) at("examine").removeAttribute("aria-busy");
  }
  watch();
}

/** Examine the first of what was dropped, pasted or chosen, and say so if it was none or more. */
export function examineFirst(files) {
  if (files.length === 0) {
    at("problem").textContent = "That was no file. Take a JPEG or PNG picture.";
    return null;
  }
  const first = files[0];
  const done = examine(first);
  if (files.length > 1) {
    at("problem").textContent = `Only the first of ${files.length} files is taken: ${first.name}`;
  }
  return done;
}

function show(answer, name) {
  const told = answer.explanation;
  const flagged = answer.flagged;
  const own = { class_name: answer.class_name, probability: answer.probability };
  setVerdict(
    flagged ? "flagged" : "passed",
    flagged ? "Flagged" : "Not flagged",
    `${name}: answered ${answer.class_name} (${percent(answer.probability)}), ` +
      (flagged ? "from the rectified picture" : "from the picture as it came"),
  );
  showPicture("input", told.input_png, `Original: ${name}`, "as the classifier sees it");
  const scaled = `× ${short(told.removed_factor ?? 1)}`;
  const largest = told.removed_largest ?? 0;
  showPicture(
    "removed", told.removed_png, `What the rectifier removed, ${scaled}`,
    largest === 0
      ? "nothing: the rectifier left the picture as it is"
      : `by the rectifier, ${scaled} around grey; at most ${short(largest)} of 255`,
  );
  showPicture("rectified", told.rectified_png, `Rectified: ${name}`,
    flagged ? "what was classified" : "what would be classified, if it were flagged");
  showScale(answer.score, answer.threshold, flagged);
  showLabel("before", told.before ?? (flagged ? null : own), !flagged);
  showLabel("after", told.after ?? (flagged ? own : null), flagged);
}

/** Empty what an earlier picture left. */
function forget() {
  for (const id of PICTURES) {
    at(id).hidden = true;
    at(`${id}-note`).textContent = notes.get(id);
  }
  at("scale-score").hidden = true;
  at("scale").setAttribute("aria-label", "No score yet");
  for (const id of ["before", "after"]) {
    at(id).classList.remove("answered");
    for (const cell of at(id).querySelectorAll("td")) cell.replaceChildren("–");
  }
}

function setVerdict(state, word, text) {
  at("verdict").dataset.state = state;
  at("verdict-word").textContent = word;
  at("verdict-text").textContent = text;
}

function showPicture(id, png, alt, note) {
  const image = at(id);
  image.hidden = png === null;
  at(`${id}-note`).textContent = png === null ? NO_RECTIFIED : note;
  if (png === null) return;
  image.alt = alt;
  image.onload = () => image.classList.toggle("small", image.naturalWidth < SHOWN);
  image.src = `data:image/png;base64,${png}`;
}

/** Draw the score beside the threshold, which stays in the middle. The scale only ever widens, so
 * that pictures examined one after the other can be compared. */
function showScale(score, threshold, flagged) {
  span = Math.max(span, roundUp(Math.abs(score - threshold) * 1.2));
  const place = 0.5 + (score - threshold) / (2 * span);
  const marker = at("scale-score");
  marker.hidden = false;
  marker.dataset.flagged = flagged;
  marker.style.setProperty("--place", place);
  const places = Math.max(1, 2 - Math.floor(Math.log10(span)));
  const [low, high] = [threshold - span, threshold + span].map((end) => signed(end, places));
  const limit = signed(threshold, 4);
  at("scale-value").textContent = signed(score, 4);
  at("scale-low").textContent = low;
  at("scale-middle").textContent = `threshold ${limit}`;
  at("scale-high").textContent = high;
  at("scale").setAttribute(
    "aria-label",
    `Score ${signed(score, 4)}, ${flagged ? "above" : "not above"} the threshold ${limit}. ` +
      `The scale runs from ${low} to ${high}.`,
  );
}

/** The next of 1, 2, 5, 10, 20 ... at or above `value`. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= value);
}

function showLabel(id, found, answered) {
  const row = at(id);
  const [label, chance] = row.querySelectorAll("td");
  row.classList.toggle("answered", answered);
  if (found === null) {
    label.textContent = NO_BARE;
    chance.textContent = "–";
    return;
  }
  label.textContent = found.class_name;
  if (answered) label.append(" ", piece("span", "tag", "the answer"));
  const bar = piece("span", "bar", "");
  bar.setAttribute("aria-hidden", "true");
  bar.append(piece("i", "", ""));
  bar.style.setProperty("--share", found.probability);
  chance.replaceChildren(piece("span", "number", percent(found.probability)), bar);
}

function piece(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

/** With a minus sign instead of a hyphen. */
function signed(value, places) {
  return value.toFixed(places).replace("-", "\u2212");
}

function short(value) {
  return Number(value.toPrecision(3)).toString();
}
